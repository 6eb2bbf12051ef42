"""Find weights on this machine, or fetch those that a name stands for.

A name is that of published weights, such as `resnet50`, or `hf:OWNER/NAME`.
"""

from contextlib import nullcontext, suppress
from pathlib import Path

from residua.bounded_json import read_json
from residua.config.hub_name import HUB_PREFIX, is_hub_name, is_repository, require_hub_name
from residua.config.papers import network
from residua.config.published_weights import WEIGHT_NAME
from residua.config.weight_registry import find_weights, suggest_weight_name
from residua.downloads import tell_user
from residua.errors import MissingRecordError, RecordError, UsageError
from residua.files import recover_interrupted
from residua.net.convert.state_dict import EXCHANGE_SUFFIXES, WEIGHT_SUFFIXES
from residua.net.published_model import fetch_model_folder

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def resolve_model_source(source: str | Path) -> Path:
    """Return the path `source`, or fetch what the name `source` stands for, and return its path.

    A name is that of published weights, whose model folder is in the cache or comes with residua,
    or `hf:OWNER/NAME`, whose path is that of a model folder or of a weight file.  A local path is
    returned even if nothing is there, and wins over a name, which is said.  Raises UsageError for
    any other name that starts with `hf:`, and RecordError if weights cannot be fetched or are not
    what their publisher states.
    """
    if is_hub_name(source):
        return download_from_hub(require_hub_name(source))
    path = Path(source)
    recover_interrupted(path)
    is_there = path.exists()
    weights = None
    if WEIGHT_NAME.fullmatch(str(source)):
        with suppress(RecordError) if is_there else nullcontext():  # the user's file may be damaged
            weights = find_weights(str(source))
    if weights is None:
        return path
    if is_there:
        tell_user(f"{source} is taken as a path, because it exists; weights have this name, too")
        return path.absolute()  # which is no name, wherever it is passed on
    return fetch_model_folder(weights)


def find_or_download_model_folder(source: str | Path) -> Path:
    """Find or download as `resolve_model_source` does, but refuse another project's repository.

    Raises RecordError if the repository is not one of residua's model folders.
    """
    path = resolve_model_source(source)
    if is_hub_name(source) and not path.is_dir():
        raise RecordError(
            f"{source} on the Hugging Face hub holds another project's weights: "
            f"load them with create_model(..., pretrained={str(source)!r})"
        )
    return path


def suggest_hub_name(missing_path: str | Path) -> str:
    """Suggest, at the end of an error, which name a missing path may be; "" if none is near.

    It may be one of published weights, or a repository on the hub.
    """
    name = str(missing_path)
    if WEIGHT_NAME.fullmatch(name):
        if near := suggest_weight_name(name):
            return f", or {near}, which is published"
        with suppress(UsageError):
            network(name)
            return f"; no weights of {name} are published (residua models --weights lists all)"
    if Path(name).suffix in (*WEIGHT_SUFFIXES, *EXCHANGE_SUFFIXES) or not is_repository(name):
        return ""
    return f", or {HUB_PREFIX}{name} if it is on the Hugging Face hub"


def resolve_weights_path(source: str | Path) -> Path:
    """Return the path of one of residua's model folders, or of another project's weight file.

    `source` is a path, or `hf:OWNER/NAME`, which is downloaded.  Raises RecordError if `source`
    does not exist or contains neither.
    """
    path = resolve_model_source(source)
    if not path.exists():
        raise RecordError(
            f"there is no file or folder {source}: check the path{suggest_hub_name(source)}"
        )
    weights_path = resolve_pretrained_path(path) if path.is_dir() else path
    if weights_path is None:
        raise RecordError(
            f"{path} is not a model folder, and holds none of {', '.join(WEIGHT_FILES)}"
        )
    return weights_path


def resolve_pretrained_path(folder: Path) -> Path | None:
    """Return `folder` itself if it is one of residua's model folders, else the weight file in it.

    Returns None if there is no weight file either.  Raises RecordError if config.json is damaged.
    """
    try:
        config = read_json(folder / "config.json")
    except MissingRecordError:
        config = None
    if isinstance(config, dict) and {"format", "network"} <= set(config):
        return folder
    return next((folder / file for file in WEIGHT_FILES if (folder / file).exists()), None)


def download_from_hub(repository: str) -> Path:
    """Download OWNER/NAME from the Hugging Face hub; return the model folder or the weight file.

    Files already in the local cache are not downloaded again.  Raises UsageError if
    huggingface_hub is not installed, RecordError if the download fails or holds no weights.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"downloading {HUB_PREFIX}{repository} needs huggingface_hub, which is not installed: "
            "pip install huggingface_hub"
        ) from None
    for files in (["config.json", WEIGHT_FILES[0]], [WEIGHT_FILES[1]]):
        try:
            folder = Path(snapshot_download(repository, allow_patterns=files))
        except Exception as error:
            # no connection, no such repository, no permission: the library has a class for each
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RecordError(
                f"{HUB_PREFIX}{repository} could not be downloaded from the Hugging Face hub: "
                f"{reason[0]}"
            ) from error
        if weights_path := resolve_pretrained_path(folder):
            return weights_path
    raise RecordError(
        f"{HUB_PREFIX}{repository} on the Hugging Face hub holds none of {', '.join(WEIGHT_FILES)}"
    )
