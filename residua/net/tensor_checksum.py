"""A checksum of named tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def checksum_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 (hex) of `text` and of the tensors' names, dtypes, shapes and values."""
    checksum = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous()
        checksum.update(values.flatten().view(torch.uint8).numpy().data)
    return checksum.hexdigest()
