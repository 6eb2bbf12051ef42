"""Push a model folder to the Hugging Face hub, in one commit."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from residua.config.hub_name import HUB_PREFIX, is_hub_name, is_repository
from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.errors import RecordError, UsageError
from residua.extras import require_extra
from residua.files import read_undisturbed
from residua.net.model_card import MODEL_PLACEHOLDER, describe_licence, describe_start
from residua.net.model_folder import find_model_folder, read_verified_config_and_tensors

MODEL_FILES = ("config.json", "README.md", "model.safetensors")


@dataclass(frozen=True, slots=True)
class HubUpload:
    """A model folder as it is to be uploaded.

    folder      the model folder, in a run or by itself
    repository  OWNER/NAME
    files       contents by name
    message     the message of the commit
    origin      the weights that the model's training started from, and their licence; "" if none
    """

    folder: Path
    repository: str
    files: dict[str, bytes]
    message: str
    origin: str = ""

    def describe(self) -> str:
        """Describe what will be uploaded, and from where to where."""
        files = ", ".join(f"{name} ({len(data):,} bytes)" for name, data in self.files.items())
        origin = f"; {self.origin}" if self.origin else ""
        return f"uploading {files} from {self.folder} to {HUB_PREFIX}{self.repository}{origin}"


@dataclass(frozen=True, slots=True)
class PushedModel:
    """A model on the hub.

    address     of its page
    commit      id of the commit with its files
    is_new      whether the repository was created
    is_private  whether only its owner sees it
    """

    upload: HubUpload
    address: str
    commit: str
    is_new: bool
    is_private: bool

    @property
    def json(self) -> dict[str, Json]:
        """The JSON that `residua push --json` prints."""
        return {
            "repository": self.upload.repository,
            "address": self.address,
            "commit": self.commit,
            "created": self.is_new,
            "private": self.is_private,
            "folder": str(self.upload.folder),
            "files": [
                {"name": name, "bytes": len(data)} for name, data in self.upload.files.items()
            ],
        }


def prepare_upload(run_or_model: Path, target: str, message: str = "") -> HubUpload:
    """Read the model folder of a run, or a model folder, that is to be pushed to `target`.

    Raises UsageError if `target` is not hf:OWNER/NAME or the run is not finished, and RecordError
    if there is no model folder, or a damaged one.
    """
    require_extra("push")
    repository = target.removeprefix(HUB_PREFIX)
    if not is_hub_name(target) or not is_repository(repository):
        raise UsageError(
            f"{target} is not a name on the Hugging Face hub: write {HUB_PREFIX}OWNER/NAME"
        )
    if is_hub_name(run_or_model):
        raise UsageError(
            f"{run_or_model} is on the hub already: give the folder of a run or of a model"
        )
    folder = find_model_folder(run_or_model)
    config, files = read_undisturbed(folder, partial(read_model_files, folder))
    if "README.md" in files:
        name = f"{HUB_PREFIX}{repository}".encode()
        files["README.md"] = files["README.md"].replace(MODEL_PLACEHOLDER.encode(), name)
    data = f", trained on {config.dataset}" if config.dataset else ""
    message = message or f"Upload {config.network.name}{data}"
    facts = {"started from": describe_start(config), "licence": describe_licence(config)}
    origin = "; ".join(f"{name} {value}" for name, value in facts.items() if value)
    return HubUpload(folder, repository, files, message, origin)


def read_model_files(folder: Path) -> tuple[ModelConfig, dict[str, bytes]]:
    """Read the config and the files of a model folder, and check that they belong together.

    They are kept in memory, because the folder may be replaced while they are uploaded.
    """
    config, _ = read_verified_config_and_tensors(folder)
    paths = [folder / name for name in MODEL_FILES]
    files = {path.name: path.read_bytes() for path in paths if path.exists()}
    if config.weights and hashlib.sha256(files[MODEL_FILES[-1]]).hexdigest() != config.weights:
        raise RecordError(f"{folder} was replaced while it was read: repeat the command")
    return config, files


def push_to_hub(
    upload: HubUpload, *, private: bool = False, on_note: Callable[[str], None]
) -> PushedModel:
    """Upload a model to the Hugging Face hub in one commit, and create its repository if missing.

    The library's usual variables name the token (HF_TOKEN, or `hf auth login`) and the hub
    (HF_ENDPOINT).  Raises RecordError, in one sentence, for whatever the hub or the network refuse,
    and if the repository is public although `private` is set; nothing is public then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        info, is_new = find_or_create_repository(api, upload.repository, private)
        if private and not info.private:
            raise RecordError(
                f"{HUB_PREFIX}{upload.repository} exists and is public, so nothing was uploaded: "
                "make it private in its settings on the hub, or choose another name"
            )
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
            for name, data in upload.files.items()
        ]
        with warnings.catch_warnings(record=True) as caught:  # of the model card's metadata
            warnings.simplefilter("always", UserWarning)
            commit = api.create_commit(upload.repository, operations, commit_message=upload.message)
        for warning in caught:
            on_note(" ".join(str(warning.message).split()))
    except RecordError:
        raise
    except Exception as error:
        # no connection, no token, no right: the library has a class for each, and httpx others
        raise RecordError(
            f"{HUB_PREFIX}{upload.repository} could not be pushed: "
            f"{explain_hub_failure(error, upload.repository, api.endpoint)}"
        ) from error
    address = f"{api.endpoint}/{upload.repository}"
    return PushedModel(upload, address, commit.oid, is_new, bool(info.private))


def find_or_create_repository(api: Any, repository: str, private: bool) -> tuple[Any, bool]:
    """Return what the hub says of a repository, and whether it was created just now."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository), False
    except RepositoryNotFoundError:
        # Without `private`, the settings of its owner decide.
        api.create_repo(repository, private=private or None, exist_ok=True)
    return api.model_info(repository), True


def explain_hub_failure(error: BaseException, repository: str, endpoint: str) -> str:
    """Explain an error of huggingface_hub: what is wrong, and what to do."""
    causes = list(list_causes(error))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    responses = [getattr(cause, "response", None) for cause in causes]
    statuses = [getattr(response, "status_code", None) for response in responses]
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set: unset it to push"
    if kinds & {"LocalProtocolError", "InvalidHeader", "UnicodeEncodeError"}:
        # their words hold the token itself
        return (
            "your token has characters that no token has: set HF_TOKEN anew, or log in with "
            "hf auth login"
        )
    if kinds & {"UnsupportedProtocol", "InvalidURL", "MissingSchema", "InvalidSchema"}:
        return f"{endpoint} is not an address: set HF_ENDPOINT to https://HOST, or unset it"
    if 401 in statuses:
        return (
            f"{endpoint} does not know you: set HF_TOKEN to a token that may write, "
            "or log in with hf auth login"
        )
    if 403 in statuses:
        return (
            f"your token may not write to {repository}: use a token of "
            f"{repository.partition('/')[0]} that may write, or another name"
        )
    if 404 in statuses or "JSONDecodeError" in kinds:
        return (
            f"{endpoint} does not answer as a Hugging Face hub does: set HF_ENDPOINT to the "
            "address of a hub, or unset it"
        )
    reason = " ".join(str(causes[-1]).split()).rstrip(".") or type(causes[-1]).__name__
    if kinds & {"ConnectError", "ConnectionError", "TimeoutException", "Timeout"}:
        return f"there is no connection to {endpoint} ({reason}): try again later"
    if isinstance(error, ValueError) and "README.md" in str(error):  # the hub refuses the card
        return f"{' '.join(str(error).split())}: mend README.md in the model folder"
    return reason


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, the error that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__
