"""The images that a run used, stored in its model folders as starts of their SHA-256 sums."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.data.in_memory import InMemoryDataset, iterate_digests
from residua.data.read import FOLDED_SPLITS, find_fold_positions, load_photos
from residua.data.sources.resolve import PhotoDataset

OF_PIXELS = (
    "pixels:"  # before the digests of arrays; not base64, so that older versions ignore them
)
DIGEST_BYTES = 4  # of each image; two images agree by chance once in four billion
MAX_STORED_DIGESTS = 200_000  # 1 MiB of config.json; for more images nothing is stored


@dataclass(frozen=True, slots=True)
class SeenImages:
    """The images that a run used, as starts of their SHA-256 sums; empty if that is not known."""

    train: frozenset[bytes] = frozenset()
    dev: frozenset[bytes] = frozenset()

    @classmethod
    def from_config(cls, config: ModelConfig, *, in_memory: bool = False) -> Self:
        """Read the digests of photographs or, with `in_memory`, of arrays; none of the other kind.

        A photograph's digest is that of its file, and an array's is that of its pixels, so that
        they cannot be compared.
        """
        texts = (config.train_digests, config.dev_digests)
        if in_memory != texts[0].startswith(OF_PIXELS):
            return cls()
        return cls(*(decode_digests(text.removeprefix(OF_PIXELS)) for text in texts))


def store_seen_images(config: ModelConfig, data: Dataset) -> ModelConfig:
    """Return the config with the digests of the images that a run on `data` uses.

    It is unchanged for a published data set, and if there are too many images.
    """
    train: Sequence[str]
    dev: Sequence[str]
    mark = ""
    if isinstance(data, InMemoryDataset):
        if data.num_images > MAX_STORED_DIGESTS:
            return config
        mark = OF_PIXELS
        train, dev = (list(iterate_digests(data.images[s].pixels)) for s in ("train", "dev"))
    elif isinstance(data, PhotoDataset):
        photos = load_photos(data)
        if len(photos.digests) > MAX_STORED_DIGESTS:
            return config
        train, dev = (
            photos.digests[photos.split_slice(s)]
            if data.fold is None
            else [photos.digests[i] for i in find_fold_positions(data, s).tolist()]
            for s in FOLDED_SPLITS
        )
    else:
        return config
    return replace(
        config,
        train_digests=mark + encode_digests(train),
        dev_digests=mark + encode_digests(dev),
    )


def encode_digests(digests: Iterable[str]) -> str:
    """Encode the sorted starts of SHA-256 sums in hexadecimal digits as base64."""
    starts = sorted({bytes.fromhex(digest[: 2 * DIGEST_BYTES]) for digest in digests})
    return base64.b64encode(b"".join(starts)).decode()


def decode_digests(text: str) -> frozenset[bytes]:
    """Decode a text of `encode_digests`; return an empty result if the text is damaged."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return frozenset()
    return frozenset(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES))
