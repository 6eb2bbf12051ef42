"""The index of stored photographs: where each one lies, and what is known of it.

The index is a few arrays, which take about 120 bytes a photograph in memory and on disk, and load
in a second for a million of them.  A small JSON file beside them holds everything else.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from residua.bounded_json import Json, read_json
from residua.data.checksums import compute_sha256
from residua.data.sources.listing import DataProblem, problems_to_json

PHOTOS_FILE, ARRAYS_FILE, PHOTO_INDEX_FILE = "photos.bin", "index.npz", "index.json"
MAX_HEADER_BYTES = 2**28
DIGEST_LENGTH = 32  # bytes of a SHA-256 sum


class PackedTexts(Sequence[str]):
    """Texts in one array of bytes: 1.3 million names take 50 MB rather than 150."""

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def pack(cls, texts: Iterable[str]) -> "PackedTexts":
        """Pack texts; surrogates, which stand for undecodable bytes of file names, are kept."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        start = int(self.ends[i - 1]) if i else 0
        return self.content[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogatepass")


class PackedDigests(Sequence[str]):
    """SHA-256 sums (n, 32) in bytes, read as texts of 64 hexadecimal digits."""

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        self.digests = digests

    @classmethod
    def pack(cls, texts: Iterable[str]) -> "PackedDigests":
        """Pack sums that are given in hexadecimal digits."""
        content = b"".join(map(bytes.fromhex, texts))
        return cls(np.frombuffer(content, np.uint8).reshape(-1, DIGEST_LENGTH))

    def __len__(self) -> int:
        return len(self.digests)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [bytes(row).hex() for row in self.digests[index]]
        return bytes(self.digests[index]).hex()

    def __iter__(self) -> Iterator[str]:
        return (bytes(row).hex() for row in self.digests)


@dataclass(frozen=True, slots=True, eq=False)
class PhotoIndex:
    """What is known of n stored photographs, which are sorted by split."""

    ends: NDArray[np.int64]  # (n,): where the record of each photograph ends
    checksums: NDArray[np.uint32]  # (n,): CRC-32 of each record
    encoded: NDArray[np.bool_]  # (n,): whether the record is a JPEG file rather than pixels
    sizes: NDArray[np.int32]  # (n, 2): height and width
    labels: NDArray[np.int64]  # (n,)
    positions: NDArray[np.int64]  # (n,): of the entries in their listing
    split_counts: NDArray[np.int64]  # of `SPLIT_ORDER`
    digests: NDArray[np.uint8]  # (n, 32): SHA-256 sums of the image files
    name_bytes: NDArray[np.uint8]
    name_ends: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.ends)

    def locate_record(self, row: int) -> tuple[int, int]:
        """Return the offset and the length in bytes of a record."""
        start = int(self.ends[row - 1]) if row else 0
        return start, int(self.ends[row]) - start

    def name_of(self, row: int) -> str:
        """Return the name of a photograph within its data set."""
        return PackedTexts(self.name_bytes, self.name_ends)[row]

    def require_consistency(self, channels: int) -> None:
        """Raise ValueError unless all parts fit together."""
        count = len(self)
        shapes = {"sizes": (count, 2), "digests": (count, DIGEST_LENGTH), "split_counts": (3,)}
        unlike = [
            field.name
            for field in fields(self)
            if field.name != "name_bytes"
            and getattr(self, field.name).shape != shapes.get(field.name, (count,))
        ]
        lengths = np.diff(self.ends, prepend=0)
        needed = self.sizes.astype(np.int64).prod(1) * channels
        if (
            unlike
            or int(self.split_counts.sum()) != count
            or (np.diff(self.name_ends, prepend=0) < 0).any()
            or (count and self.name_ends[-1] != len(self.name_bytes))
            or (lengths < 0).any()
            or (self.sizes < 1).any()
            or not (self.encoded | (lengths == 0) | (lengths == needed)).all()
        ):
            raise ValueError("the index of the photographs is damaged")


def write_photo_index(
    folder: Path, index: PhotoIndex, location: str, problems: Sequence[DataProblem], channels: int
) -> None:
    """Write index.npz and index.json into a folder that nobody reads yet."""
    arrays = {field.name: getattr(index, field.name) for field in fields(index)}
    np.savez(folder / ARRAYS_FILE, **arrays)
    header: dict[str, Json] = {
        "channels": channels,
        "problems": problems_to_json(problems),
        "arrays": compute_sha256((folder / ARRAYS_FILE).read_bytes()),
    }
    stored = {"location": location, "checksum": compute_header_checksum(header), "index": header}
    (folder / PHOTO_INDEX_FILE).write_text(json.dumps(stored), encoding="utf-8")


def read_photo_index(folder: Path) -> tuple[PhotoIndex, tuple[DataProblem, ...]]:
    """Read what `write_photo_index` wrote, and compare it with its checksums.

    Raises OSError, ValueError or RecordError if the folder does not hold an intact index.
    """
    stored = read_json(folder / PHOTO_INDEX_FILE, MAX_HEADER_BYTES)
    content = (folder / ARRAYS_FILE).read_bytes()
    header = stored.get("index") if isinstance(stored, dict) else None
    if (
        not isinstance(stored, dict)
        or not isinstance(header, dict)
        or compute_header_checksum(header) != stored.get("checksum")
        or compute_sha256(content) != header["arrays"]
    ):
        raise ValueError(f"the index in {folder} is damaged")
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        index = PhotoIndex(**{field.name: arrays[field.name] for field in fields(PhotoIndex)})
    channels, problems = header["channels"], header["problems"]
    if not isinstance(channels, int) or not isinstance(problems, list):
        raise ValueError(f"the index in {folder} is damaged")
    index.require_consistency(channels)
    return index, tuple(DataProblem(**facts) for facts in problems)  # type: ignore[arg-type]


def compute_header_checksum(header: dict[str, Json]) -> str:
    """Compute the SHA-256 sum of the header, independent of the order of its keys."""
    return compute_sha256(json.dumps(header, sort_keys=True).encode())
