"""Where weights are: a model folder or a file here, or either of them on the Hugging Face hub."""

import json
import re
from pathlib import Path

from residua.errors import RecordError, UsageError
from residua.net.convert.state_dict import PICKLE_SUFFIXES

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def find_or_download_model_folder(source: str | Path) -> Path:
    """The model folder that `source` names, fetched where it is OWNER/NAME on the hub and nothing here is called so."""
    path = Path(source)
    if path.exists() or not looks_like_hub_repo(path):
        return path
    downloaded = download_from_hub(path.as_posix())
    if not downloaded.is_dir():
        raise RecordError(
            f"{source} on the Hugging Face hub is another project's: create_model(..., pretrained={str(source)!r})"
        )
    return downloaded


def looks_like_hub_repo(source: str | Path) -> bool:
    """Whether it could be OWNER/NAME, and neither `./NAME` nor a file."""
    if Path(source).suffix in (".safetensors", ".onnx", *PICKLE_SUFFIXES):
        return False
    return re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", str(source)) is not None


def resolve_weights_path(source: str | Path) -> Path:
    """Our model folder, or another project's file, that `source` names here or on the hub."""
    path = Path(source)
    if not path.exists():
        if not looks_like_hub_repo(source):
            raise RecordError(
                f"there is no file or folder {source}, and a network on the Hugging Face hub is called OWNER/NAME"
            )
        return download_from_hub(str(source))
    weights_path = find_weights_in(path) if path.is_dir() else path
    if weights_path is None:
        raise RecordError(f"{path} is no model folder, and holds none of {', '.join(WEIGHT_FILES)}")
    return weights_path


def find_weights_in(folder: Path) -> Path | None:
    """The folder itself where it is one of our model folders, or else the file of weights in it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and {"format", "network"} <= set(config):
        return folder
    return next((folder / file for file in WEIGHT_FILES if (folder / file).exists()), None)


def download_from_hub(repo_id: str) -> Path:
    """What OWNER/NAME on the Hugging Face hub holds, in its cache here."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"{repo_id} is fetched by huggingface_hub, which is not here: pip install huggingface_hub"
        ) from None
    for files in (["config.json", WEIGHT_FILES[0]], [WEIGHT_FILES[1]]):
        try:
            weights_path = find_weights_in(Path(snapshot_download(repo_id, allow_patterns=files)))
        except (
            Exception
        ) as error:  # no network, no such name, no permission: as many kinds as the library has
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RecordError(
                f"{repo_id} is no file here, and could not be fetched from the Hugging Face hub: {reason[0]}"
            ) from error
        if weights_path is not None:
            return weights_path
    raise RecordError(f"{repo_id} on the Hugging Face hub holds none of {', '.join(WEIGHT_FILES)}")
