"""The interface of photographs that are decoded when they are needed."""

from typing import Protocol

from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, as in Pillow


class PhotoSource(Protocol):
    """Photographs that are decoded when they are needed, with their labels.

    Both methods that read may be called from several threads, and decode outside Python's global
    lock.  They raise DataError, which names the photograph, if its bytes have changed, vanished or
    are damaged.
    """

    @property
    def labels(self) -> Tensor:
        """The labels (n,) int64, on the CPU."""

    @property
    def sizes(self) -> Tensor:
        """Height and width (n, 2) int64 of each photograph as stored, in pixels."""

    @property
    def channels(self) -> int:
        """The channels of each photograph: 1 if grey, 3 in colour."""

    @property
    def fingerprint(self) -> str:
        """A hash in 16 hexadecimal digits, of the files' digests and labels rather than pixels."""

    def __len__(self) -> int:
        """Return the number of photographs."""

    def select(self, indices: Tensor) -> "PhotoSource":
        """Return the photographs at `indices`, in that order: a split or a fold, for example."""

    def read_crop(self, index: int, box: Box, size: tuple[int, int]) -> Tensor:
        """Read the box of a photograph, in pixels of `sizes`, resized to `size`: uint8 (c, h, w).

        Resizing is bilinear and antialiased.
        """

    def read_center(self, index: int, size: tuple[int, int]) -> Tensor:
        """Read the center crop of `size` (h, w) of a photograph as stored: uint8 (c, h, w)."""
