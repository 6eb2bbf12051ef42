"""The images that a run used, stored in its model folders as starts of their SHA-256 sums."""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from residua.config.model import ModelConfig
from residua.data.decode_listing import DecodedImages

DIGEST_BYTES = 4  # of each image; two images agree by chance once in four billion
MAX_STORED_DIGESTS = 200_000  # 1 MiB of config.json; for more images nothing is stored


@dataclass(frozen=True, slots=True)
class SeenImages:
    """The images that a run used, as starts of their SHA-256 sums; empty if that is not known."""

    train: frozenset[bytes] = frozenset()
    dev: frozenset[bytes] = frozenset()

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        return cls(decode_digests(config.train_digests), decode_digests(config.dev_digests))


def store_seen_images(config: ModelConfig, images: DecodedImages) -> ModelConfig:
    """Return the config with the digests of a run's images, or unchanged if there are too many."""
    if len(images.digests) > MAX_STORED_DIGESTS:
        return config
    return replace(
        config,
        train_digests=encode_digests(images.digests[images.split_slice("train")]),
        dev_digests=encode_digests(images.digests[images.split_slice("dev")]),
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
