"""Find near-duplicate images by difference hash (Krawetz 2013), without comparing all pairs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_HASH_DISTANCE = 4  # differing bits, of 64, between hashes of the same picture; our choice
MAX_MEAN_GREY_DIFFERENCE = 8.0  # mean absolute difference of grey levels in [0, 255]; our choice
# Two hashes that differ in fewer bits than there are bands are equal in at least one band.
HASH_BANDS = MAX_HASH_DISTANCE + 1


def compute_difference_hash(image: Image.Image) -> int:
    """64 bits, one per cell of an 8 x 8 grid: 1 if the cell is darker than the one right of it."""
    levels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


def make_grey_thumbnail(image: Image.Image) -> bytes:
    """The image shrunk to 16 x 16 grey levels, row by row."""
    return image.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()


def find_near_duplicates(
    hashes: Sequence[int], grey_thumbnails: Sequence[bytes]
) -> list[tuple[int, int]]:
    """Pairs (first, later) of images that look the same, sorted by `later`.

    An image that resembles earlier ones is paired with the first of them.  Only images whose hashes
    agree in at least one band, a group of consecutive bits, are compared; all near duplicates do.
    """
    hash_array = np.array(hashes, np.uint64)
    grey_levels = np.frombuffer(b"".join(grey_thumbnails), np.uint8)
    grey_levels = grey_levels.reshape(len(hashes), -1).astype(np.int16)
    first_match: dict[int, int] = {}
    for bucket in group_by_hash_band(hashes):
        bucket_members = np.array(bucket)
        for position, j in enumerate(bucket[1:], 1):
            earlier = bucket_members[:position]
            distances = count_set_bits(hash_array[earlier] ^ hash_array[j])
            near_in_hash = earlier[distances <= MAX_HASH_DISTANCE]
            grey_differences = np.abs(grey_levels[near_in_hash] - grey_levels[j]).mean(1)
            near_in_grey = near_in_hash[grey_differences <= MAX_MEAN_GREY_DIFFERENCE]
            if len(near_in_grey):
                first_match[j] = min(int(near_in_grey[0]), first_match.get(j, j))
    return [(i, j) for j, i in sorted(first_match.items())]


def count_set_bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of bits set in each 64-bit word (n,)."""
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1)
    counts: NDArray[np.int64] = bits.sum(1, dtype=np.int64)
    return counts


def group_by_hash_band(hashes: Iterable[int]) -> Iterator[list[int]]:
    """Groups of two or more images, by increasing index, whose hashes agree in one band."""
    band_edges = [64 * i // HASH_BANDS for i in range(HASH_BANDS + 1)]
    members_by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, value in enumerate(hashes):
        for band in range(HASH_BANDS):
            start, end = band_edges[band : band + 2]
            band_bits = value >> start & ((1 << (end - start)) - 1)
            members_by_band[band, band_bits].append(i)
    yield from (bucket for bucket in members_by_band.values() if len(bucket) > 1)
