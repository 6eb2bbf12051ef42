"""Small indexes of many files as arrays in one file, with a version and a checksum.

A million names, sizes and digests are compact as arrays; as JSON objects they need gigabytes of
memory and minutes.  The content may come from a server, so nothing in it is trusted.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residua.bounded_json import Json, parse_strict_json
from residua.data.checksums import compute_sha256
from residua.files import atomic_write

MAGIC = b"residua arrays 1\n"
SUM_LENGTH = 64  # hexadecimal digits
LENGTH_BYTES = 8
KNOWN_TYPES = ("|u1", "<i4", "<i8", "<u8")
Arrays = dict[str, NDArray[np.generic]]


def write_checked_arrays(
    path: Path, facts: Mapping[str, Json], arrays: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write facts and arrays to one file, in one step, while other processes wait."""
    content = encode_checked_arrays(facts, arrays)
    with atomic_write(path) as staging:
        staging.write_bytes(content)


def read_checked_arrays(path: Path) -> tuple[dict[str, Json], Arrays]:
    """Read what `write_checked_arrays` wrote; ValueError if the file is damaged, or OSError."""
    return decode_checked_arrays(path.read_bytes())


def encode_checked_arrays(
    facts: Mapping[str, Json], arrays: Mapping[str, NDArray[np.generic]]
) -> bytes:
    """Encode facts and arrays: a magic line, a SHA-256 sum, a header in JSON, the arrays' bytes."""
    stored = {
        name: array.astype(array.dtype.newbyteorder("<"), copy=False)
        for name, array in arrays.items()
    }
    shapes = [[name, array.dtype.str, list(array.shape)] for name, array in stored.items()]
    header = json.dumps({"facts": dict(facts), "arrays": shapes}).encode()
    body = b"".join(
        [
            len(header).to_bytes(LENGTH_BYTES, "little"),
            header,
            *(array.tobytes() for array in stored.values()),
        ]
    )
    return MAGIC + compute_sha256(body).encode() + body


def decode_checked_arrays(content: bytes) -> tuple[dict[str, Json], Arrays]:
    """Decode what `encode_checked_arrays` made; the arrays are views of `content`.

    Raises ValueError if the content is of another version, incomplete or damaged.
    """
    if not content.startswith(MAGIC):
        raise ValueError("it is no index of this version")
    start = len(MAGIC) + SUM_LENGTH
    body = memoryview(content)[start:]
    if compute_sha256(body).encode() != content[len(MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    header_end = LENGTH_BYTES + int.from_bytes(body[:LENGTH_BYTES], "little")
    try:
        header: Any = parse_strict_json(bytes(body[LENGTH_BYTES:header_end]))
        facts, shapes = dict(header["facts"]), list(header["arrays"])
        arrays, position = {}, header_end
        for name, dtype, shape in shapes:
            array = take_array(body[position:], dtype, shape)
            arrays[str(name)] = array
            position += array.nbytes
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("it is incomplete, or its header is damaged") from error
    return facts, arrays


def take_array(data: memoryview, dtype: str, shape: Sequence[int]) -> NDArray[np.generic]:
    """Return the array at the start of `data`; ValueError if its type or shape is impossible."""
    if dtype not in KNOWN_TYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("its header is damaged")
    item, count = np.dtype(dtype), prod(shape)
    if count * item.itemsize > len(data):
        raise ValueError("it is incomplete")
    return np.frombuffer(data, item, count).reshape(shape)


def encode_texts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Encode texts without line ends as bytes; raises ValueError if a text has a line end."""
    joined = "\n".join(texts)
    if joined.count("\n") != max(len(texts) - 1, 0):
        raise ValueError("a text has a line end")
    return np.frombuffer(joined.encode("utf-8", "surrogateescape"), np.uint8)


def decode_texts(data: NDArray[np.generic], count: int) -> list[str]:
    """Decode `count` texts of `encode_texts`; raises ValueError if they are not that many."""
    texts = data.tobytes().decode("utf-8", "surrogateescape").split("\n") if count else []
    if len(texts) != count:
        raise ValueError("its names are damaged")
    return texts
