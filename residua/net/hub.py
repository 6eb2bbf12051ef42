"""Find weights on this machine or on the Hugging Face hub."""

import json
import re
from pathlib import Path

from residua.errors import RecordError, UsageError
from residua.net.convert.state_dict import WEIGHT_SUFFIXES

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def find_or_download_model_folder(source: str | Path) -> Path:
    """Return the path `source` if it exists; otherwise download OWNER/NAME from the hub.

    A `source` that does not exist and does not read OWNER/NAME is returned unchanged.  Raises
    RecordError if OWNER/NAME cannot be downloaded or is not one of residua's model folders.
    """
    path = Path(source)
    if path.exists() or not looks_like_hub_repo(path):
        return path
    downloaded = download_from_hub(path.as_posix())
    if not downloaded.is_dir():
        raise RecordError(
            f"{source} on the Hugging Face hub holds another project's weights: "
            f"load them with create_model(..., pretrained={str(source)!r})"
        )
    return downloaded


def looks_like_hub_repo(source: str | Path) -> bool:
    """Whether `source` may be OWNER/NAME, rather than a file name or a path such as ./NAME."""
    if Path(source).suffix in (*WEIGHT_SUFFIXES, ".onnx"):
        return False
    return re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", str(source)) is not None


def resolve_weights_path(source: str | Path) -> Path:
    """Find residua's model folder, or another project's weight file, at a path or on the hub.

    Raises RecordError if `source` holds neither.
    """
    path = Path(source)
    if not path.exists():
        if not looks_like_hub_repo(source):
            raise RecordError(
                f"there is no file or folder {source}: "
                "check the path, or give a network of the Hugging Face hub as OWNER/NAME"
            )
        return download_from_hub(str(source))
    weights_path = find_model_folder_or_weight_file(path) if path.is_dir() else path
    if weights_path is None:
        raise RecordError(
            f"{path} is not a model folder, and holds none of {', '.join(WEIGHT_FILES)}"
        )
    return weights_path


def find_model_folder_or_weight_file(folder: Path) -> Path | None:
    """The folder itself if it is a residua model folder, else its weight file; None without one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and {"format", "network"} <= set(config):
        return folder
    return next((folder / file for file in WEIGHT_FILES if (folder / file).exists()), None)


def download_from_hub(repo_id: str) -> Path:
    """Download OWNER/NAME from the Hugging Face hub; return a path as `find_model_folder_or_weight_file` does.

    Files that are in the hub's cache are not downloaded again.  Raises UsageError if
    huggingface_hub is not installed, RecordError if the download fails.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(
            f"{repo_id} is downloaded by huggingface_hub, which is not installed: "
            "pip install huggingface_hub"
        ) from None
    for files in (["config.json", WEIGHT_FILES[0]], [WEIGHT_FILES[1]]):
        try:
            weights_path = find_model_folder_or_weight_file(
                Path(snapshot_download(repo_id, allow_patterns=files))
            )
        except Exception as error:
            # no network, no such repository, no permission: the library has a class for each
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RecordError(
                f"{repo_id} is not a file on this machine, "
                f"and could not be downloaded from the Hugging Face hub: {reason[0]}"
            ) from error
        if weights_path is not None:
            return weights_path
    raise RecordError(f"{repo_id} on the Hugging Face hub holds none of {', '.join(WEIGHT_FILES)}")
