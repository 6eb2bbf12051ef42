"""Images in memory, with their labels."""

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from residua.data.resize import center_offset

ARRAYS_PREFIX = "arrays-"  # of the names of data sets of arrays
FINGERPRINT_CHUNK = 256  # images hashed together: all of them may exceed memory


@dataclass(frozen=True, slots=True)
class Images:
    """Images (n, channels, height, width) uint8 and their labels (n,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    def select(self, indices: Tensor) -> "Images":
        """Return the images at `indices`, in that order."""
        return self[indices]

    def iterate(self, indices: Iterable[Tensor | slice]) -> Generator["Images"]:
        """Yield `self[index]` for each of `indices`."""
        return (self[index] for index in indices)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def center_crop(self, size: tuple[int, int]) -> "Images":
        """Return the images cropped to (height, width) around their centers, as views."""
        return Images(center_crop(self.pixels, size), self.labels)

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash of all pixels and labels, in 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for pixels in torch.split(self.pixels, FINGERPRINT_CHUNK):
            digest.update(pixels.contiguous().cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def center_crop(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (..., h, w) cropped to (height, width) around their centers, as views."""
    height, width = size
    top, left = center_offset(pixels.shape[-2], height), center_offset(pixels.shape[-1], width)
    return pixels[..., top : top + height, left : left + width]
