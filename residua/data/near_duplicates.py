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
COARSE_BLOCKS = 16  # parts of a thumbnail whose means are compared before all of its pixels
COMPARED_AT_ONCE = 64  # images; the first match is often among the first ones
LARGE_BUCKET = 100  # images


def compute_difference_hash(image: Image.Image) -> int:
    """Compute the 64-bit difference hash of an image.

    The image is shrunk to 8 rows of 9 grey pixels.  Each pixel but the last of a row gives a bit,
    which is 1 if the pixel is darker than its right neighbour.
    """
    levels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


def make_grey_thumbnail(image: Image.Image) -> bytes:
    """Shrink an image to 16 x 16 grey pixels: 256 bytes, row by row."""
    return image.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()


def find_near_duplicates(
    hashes: Sequence[int], grey_thumbnails: Sequence[bytes]
) -> list[tuple[int, int]]:
    """Find pairs of indices (first, later) of images that look the same, sorted by `later`.

    An image that resembles earlier ones is paired with the first of them.  Hashes are divided into
    bands of consecutive bits, and two images are compared only if they agree in at least one band.
    This finds all pairs, because the hashes of near duplicates always agree in a band.
    """
    if len(hashes) < 2:
        return []
    pictures = ShrunkPictures(hashes, grey_thumbnails)
    first_match: dict[int, int] = {}
    compared: set[bytes] = set()
    for bucket in group_by_hash_band(hashes):
        members = np.array(bucket)
        # images with the same hash agree in all bands, and there may be many of them
        if len(bucket) > LARGE_BUCKET and (key := members.tobytes()) in compared:
            continue
        if len(bucket) > LARGE_BUCKET:
            compared.add(key)
        for position, j in enumerate(bucket[1:], 1):
            match = pictures.find_first_match(members[:position], j)
            if match is not None:
                first_match[j] = min(match, first_match.get(j, j))
    return [(i, j) for j, i in sorted(first_match.items())]


class ShrunkPictures:
    """The hashes and grey thumbnails of images, to be compared with each other.

    The mean absolute difference of two thumbnails is at least the difference of their means, and at
    least that of the means of their blocks.  These are compared first, because photographs with
    large equal areas, such as a black background, often have the same hash.
    """

    def __init__(self, hashes: Sequence[int], grey_thumbnails: Sequence[bytes]) -> None:
        self.hashes = np.array(hashes, np.uint64)
        pixels = np.frombuffer(b"".join(grey_thumbnails), np.uint8)
        self.levels = pixels.reshape(len(hashes), -1)
        self.blocks = self.levels.reshape(len(hashes), COARSE_BLOCKS, -1).mean(2, np.float32)
        self.means = self.blocks.mean(1)

    def find_first_match(self, earlier: NDArray[np.int64], j: int) -> int | None:
        """Find the first index in the sorted `earlier` whose image looks the same as image `j`."""
        limit = MAX_MEAN_GREY_DIFFERENCE + 0.01  # float32 rounds
        near = earlier
        if len(earlier) > LARGE_BUCKET:
            near = near[np.abs(self.means[near] - self.means[j]) <= limit]
            near = near[np.abs(self.blocks[near] - self.blocks[j]).mean(1) <= limit]
        near = near[count_set_bits(self.hashes[near] ^ self.hashes[j]) <= MAX_HASH_DISTANCE]
        levels = self.levels[j].astype(np.int16)
        for start in range(0, len(near), COMPARED_AT_ONCE):
            candidates = near[start : start + COMPARED_AT_ONCE]
            differences = np.abs(self.levels[candidates] - levels).mean(1)
            matches = candidates[differences <= MAX_MEAN_GREY_DIFFERENCE]
            if len(matches):
                return int(matches[0])
        return None


def count_set_bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Count the bits set in each 64-bit word (n,)."""
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1)
    counts: NDArray[np.int64] = bits.sum(1, dtype=np.int64)
    return counts


def group_by_hash_band(hashes: Iterable[int]) -> Iterator[list[int]]:
    """Yield groups of two or more image indices, in order, whose hashes agree in one band."""
    band_edges = [64 * i // HASH_BANDS for i in range(HASH_BANDS + 1)]
    members_by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, value in enumerate(hashes):
        for band in range(HASH_BANDS):
            start, end = band_edges[band : band + 2]
            band_bits = value >> start & ((1 << (end - start)) - 1)
            members_by_band[band, band_bits].append(i)
    yield from (bucket for bucket in members_by_band.values() if len(bucket) > 1)
