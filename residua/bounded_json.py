"""Read JSON that others wrote, within limits, so that any file ends in a value or in one sentence.

The JSON of records, model folders, caches and arguments is read here.  A file may be damaged, huge,
nested without end, or a pipe that nobody writes to: none of them may take the memory, the time or
the stack of the process.
"""

import json
import os
import re
import stat
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import NoReturn, TypeAlias

from residua.errors import DamagedRecordError, MissingRecordError, RecordError

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAX_JSON_BYTES = 2**26  # 64 MiB, of which json makes at most 1.6 GiB of memory; our choice
MAX_NESTING = 64  # lists and objects inside each other; our deepest record has 9
MAX_DIGITS = 100  # of a number, so that each can become a float
NESTING_STEPS = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]
NOT_BRACKETS = bytes(byte for byte in range(256) if not NESTING_STEPS[byte])


class UnacceptableJsonError(ValueError):
    """A text is nested too deeply, or has a value that no record can have."""


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Json:
    """Read a JSON file of at most `max_bytes`.

    Raises MissingRecordError if there is no such file, DamagedRecordError if its content is not
    acceptable JSON, and RecordError if it cannot be read.  Each message names the file.
    """
    content = read_regular_file(path, max_bytes)
    try:
        return parse_strict_json(content)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedRecordError(f"{path} is damaged: {describe_json_error(error)}") from error


def read_json_lines(path: Path, max_bytes: int = MAX_JSON_BYTES) -> list[Json]:
    """Read a file with one JSON value per line; empty lines are skipped.

    Raises the errors of `read_json`; the message about a damaged line also names the line.
    """
    return parse_json_lines(read_regular_file(path, max_bytes), path)


def parse_json_lines(content: bytes, path: Path) -> list[Json]:
    """Parse the content of the file `path`, one JSON value per line; empty lines are skipped.

    NaN and Infinity, which earlier versions wrote for losses that were not finite, become None.
    Raises DamagedRecordError if a line is not acceptable JSON; the message names file and line.
    """
    values = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                values.append(parse_strict_json(line, non_finite_as_none=True))
            except (ValueError, RecursionError, MemoryError) as error:
                reason = describe_json_error(error)
                message = f"{path} is damaged in line {number}: {reason}"
                raise DamagedRecordError(message) from error
    return values


def parse_strict_json(content: str | bytes, *, non_finite_as_none: bool = False) -> Json:
    """Parse JSON; bytes are UTF-8.

    Raises json.JSONDecodeError or UnicodeDecodeError if `content` is not JSON.  Raises
    UnacceptableJsonError if it is nested too deeply, or has a number that is too long or not
    finite, a key twice in one object, or half of a surrogate pair.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    structure = re.sub(rb'"[^"]*"?', b"", data.replace(rb"\\", b"").replace(rb"\"", b""))
    depths = accumulate(map(NESTING_STEPS.__getitem__, structure.translate(None, NOT_BRACKETS)))
    if max(depths, default=0) > MAX_NESTING:
        raise UnacceptableJsonError(f"its values are nested more than {MAX_NESTING} levels deep")
    if re.search(rb"[0-9]{%d}" % (MAX_DIGITS + 1), structure):
        raise UnacceptableJsonError(f"it has a number with more than {MAX_DIGITS} digits")
    has_long_exponent = re.search(rb"[eE]\+?[0-9]{3}", structure)
    value: Json = json.loads(
        content if isinstance(content, str) else content.decode("utf-8-sig"),
        parse_constant=(lambda name: None) if non_finite_as_none else refuse_constant,
        parse_float=parse_finite_float if has_long_exponent else None,
        object_pairs_hook=make_object_of_unique_keys,
    )
    if re.search(rb"\\u[dD][89a-fA-F]", data):
        check_surrogates(value)
    return value


def refuse_constant(name: str) -> NoReturn:
    raise UnacceptableJsonError(f"it contains {name}, which is not a finite number")


def parse_finite_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        refuse_constant(text)
    return number


def make_object_of_unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Make a JSON object; raises UnacceptableJsonError if a key occurs twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        raise UnacceptableJsonError(f"it has the key {repeated!r} twice in one object")
    return content


def check_surrogates(value: Json) -> None:
    """Raise UnacceptableJsonError if a text in `value` has half of a surrogate pair.

    Surrogates that stand for the bytes of a file name that is not UTF-8 are allowed.
    """
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            pending += [*part, *part.values()]
        elif isinstance(part, list):
            pending += part
        elif isinstance(part, str):
            try:
                part.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                message = f"the text {part[:60]!r} has half of a surrogate pair"
                raise UnacceptableJsonError(message) from None


def describe_json_error(error: BaseException) -> str:
    """Say in words why a text is not acceptable JSON."""
    match error:
        case UnicodeDecodeError():
            return f"its byte {error.start:,} is not UTF-8 text"
        case RecursionError():
            return "its values are nested too deeply"
        case MemoryError():
            return "it does not fit into memory"
    return str(error)


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Read a whole file without blocking: folders, pipes and devices are refused.

    Raises MissingRecordError if there is no such file, DamagedRecordError if it has more than
    `max_bytes` bytes, and RecordError if it cannot be read.
    """
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RecordError(f"{path} is a pipe or a device: give a regular file")
            # `read` allocates all that it is asked for before it reads.
            content = file.read(min(status.st_size, max_bytes) + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingRecordError(f"there is no file {path}: check the path") from error
    except IsADirectoryError as error:
        raise RecordError(f"{path} is a folder: give a file") from error
    except MemoryError as error:
        raise RecordError(f"{path} does not fit into memory: give a smaller file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecordError(f"{path} cannot be read: {reason}") from error
    if len(content) > max_bytes:
        raise DamagedRecordError(f"{path} is too large: it has more than {max_bytes:,} bytes")
    return content


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file, as an `opener` of `open`; opening a pipe does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
