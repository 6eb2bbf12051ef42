"""Where weights are: a model folder or a file here, or either of them on the Hugging Face hub."""

import json
import re
from pathlib import Path

from residua.errors import RecordError, UsageError
from residua.net.weights import PICKLES

FILES = ("model.safetensors", "pytorch_model.bin")


def folder_of(source: str | Path) -> Path:
    """The model folder that `source` names, fetched where it is OWNER/NAME on the hub and nothing here is called so."""
    path = Path(source)
    if path.exists() or not named(path):
        return path
    found = fetched(path.as_posix())
    if not found.is_dir():
        raise RecordError(f"{source} on the Hugging Face hub is another project's: create_model(..., pretrained={str(source)!r})")
    return found


def named(source: str | Path) -> bool:
    """Whether it could be OWNER/NAME, and neither `./NAME` nor a file."""
    if Path(source).suffix in (".safetensors", ".onnx", *PICKLES):
        return False
    return re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", str(source)) is not None


def located(source: str | Path) -> Path:
    """Our model folder, or another project's file, that `source` names here or on the hub."""
    path = Path(source)
    if not path.exists():
        if not named(source):
            raise RecordError(f"there is no file or folder {source}, and a network on the Hugging Face hub is called OWNER/NAME")
        return fetched(str(source))
    found = inside(path) if path.is_dir() else path
    if found is None:
        raise RecordError(f"{path} is no model folder, and holds none of {', '.join(FILES)}")
    return found


def inside(folder: Path) -> Path | None:
    """The folder itself where it is one of our model folders, or else the file of weights in it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and {"format", "network"} <= set(config):
        return folder
    return next((folder / file for file in FILES if (folder / file).exists()), None)


def fetched(name: str) -> Path:
    """What OWNER/NAME on the Hugging Face hub holds, in its cache here."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError(f"{name} is fetched by huggingface_hub, which is not here: pip install huggingface_hub") from None
    for files in (["config.json", FILES[0]], [FILES[1]]):
        try:
            found = inside(Path(snapshot_download(name, allow_patterns=files)))
        except Exception as error:  # no network, no such name, no permission: as many kinds as the library has
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise RecordError(f"{name} is no file here, and could not be fetched from the Hugging Face hub: {reason[0]}") from error
        if found is not None:
            return found
    raise RecordError(f"{name} on the Hugging Face hub holds none of {', '.join(FILES)}")
