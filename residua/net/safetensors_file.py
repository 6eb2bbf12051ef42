"""Read and write safetensors files, within limits and with the permissions of any new file."""

import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_HEADER_BYTES = 2**25  # names and shapes of all tensors; those of 20,000 layers need 17 MB


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Load all tensors of a file.

    Raises SafetensorError if the file is damaged, and OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        # the library makes many times as much memory of a header, before it reads a tensor
        if int.from_bytes(file.read(8), "little") > MAX_HEADER_BYTES:
            raise SafetensorError(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
    return load_file(path)


def save_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a file whose permissions follow the umask.

    Raises SafetensorError or OSError if it cannot be written.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata)  # replaces the file by one that only its owner reads
    path.chmod(mode)
