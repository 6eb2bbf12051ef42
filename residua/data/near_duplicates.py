"""Which images look the same: by the difference hash (Krawetz 2013), found without comparing all with all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_HASH_DISTANCE = 4  # of 64, in which hashes of the same picture differ at most; our choice
MAX_MEAN_GREY_DIFFERENCE = 8.0  # by which their grey levels differ on average
HASH_BANDS = (
    MAX_HASH_DISTANCE + 1
)  # of two hashes that differ in fewer bits than there are bands, one band is equal


def compute_difference_hash(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 cells is darker than the one to its right."""
    levels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


def make_grey_thumbnail(image: Image.Image) -> bytes:
    """16 x 16 grey levels."""
    return image.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()


def find_near_duplicates(
    hashes: Sequence[int], grey_thumbnails: Sequence[bytes]
) -> list[tuple[int, int]]:
    """Each image that looks like an earlier one, with the first that it looks like: (first, later), by later.

    Compared are those that share a band of the hash, as each near pair does.
    """
    hash_array, grey_levels = (
        np.array(hashes, np.uint64),
        np.frombuffer(b"".join(grey_thumbnails), np.uint8)
        .reshape(len(hashes), -1)
        .astype(np.int16),
    )
    first_match: dict[int, int] = {}
    for bucket in group_by_hash_band(hashes):
        bucket_members = np.array(bucket)
        for position, j in enumerate(bucket[1:], 1):
            earlier = bucket_members[:position]
            near_in_hash = earlier[
                count_set_bits(hash_array[earlier] ^ hash_array[j]) <= MAX_HASH_DISTANCE
            ]
            near_in_grey = near_in_hash[
                np.abs(grey_levels[near_in_hash] - grey_levels[j]).mean(1)
                <= MAX_MEAN_GREY_DIFFERENCE
            ]
            if len(near_in_grey):
                first_match[j] = min(int(near_in_grey[0]), first_match.get(j, j))
    return [(i, j) for j, i in sorted(first_match.items())]


def count_set_bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each word (n,) are set."""
    counts: NDArray[np.int64] = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(
        1, dtype=np.int64
    )
    return counts


def group_by_hash_band(hashes: Iterable[int]) -> Iterator[list[int]]:
    """Images that share a band, in order: of each band those of each value, where they are several."""
    band_edges = [64 * i // HASH_BANDS for i in range(HASH_BANDS + 1)]
    members_by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, value in enumerate(hashes):
        for band in range(HASH_BANDS):
            members_by_band[
                band,
                value >> band_edges[band] & ((1 << (band_edges[band + 1] - band_edges[band])) - 1),
            ].append(i)
    yield from (bucket for bucket in members_by_band.values() if len(bucket) > 1)
