"""Which images look the same: by the difference hash (Krawetz 2013), found without comparing all with all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BITS = 4  # of 64, in which hashes of the same picture differ at most; our choice
MOST_LEVELS = 8.0  # by which their grey levels differ on average
BANDS = MOST_BITS + 1  # of two hashes that differ in fewer bits than there are bands, one band is equal


def hashed(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 cells is darker than the one to its right."""
    levels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes(), "big")


def grey(image: Image.Image) -> bytes:
    """16 x 16 grey levels."""
    return image.convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()


def alike(hashes: Sequence[int], greys: Sequence[bytes]) -> list[tuple[int, int]]:
    """Each image that looks like an earlier one, with the first that it looks like: (first, later), by later.

    Compared are those that share a band of the hash, as each near pair does.
    """
    bits, levels = np.array(hashes, np.uint64), np.frombuffer(b"".join(greys), np.uint8).reshape(len(hashes), -1).astype(np.int16)
    first: dict[int, int] = {}
    for bucket in buckets(hashes):
        members = np.array(bucket)
        for place, j in enumerate(bucket[1:], 1):
            before = members[:place]
            near = before[ones(bits[before] ^ bits[j]) <= MOST_BITS]
            same = near[np.abs(levels[near] - levels[j]).mean(1) <= MOST_LEVELS]
            if len(same):
                first[j] = min(int(same[0]), first.get(j, j))
    return [(i, j) for j, i in sorted(first.items())]


def ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits of each word (n,) are set."""
    counts: NDArray[np.int64] = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).sum(1, dtype=np.int64)
    return counts


def buckets(hashes: Iterable[int]) -> Iterator[list[int]]:
    """Images that share a band, in order: of each band those of each value, where they are several."""
    edges = [64 * i // BANDS for i in range(BANDS + 1)]
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, value in enumerate(hashes):
        for band in range(BANDS):
            found[band, value >> edges[band] & ((1 << (edges[band + 1] - edges[band])) - 1)].append(i)
    yield from (bucket for bucket in found.values() if len(bucket) > 1)
