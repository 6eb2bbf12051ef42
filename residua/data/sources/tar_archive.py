"""The members of a tar archive: names, offsets and sizes, read from its headers alone.

The standard library's `tarfile` is not used, because archives come from anywhere.  In Python
versions that residua supports it loops for ever on a negative size (CVE-2025-8194), calls itself
once for each chained header, and turns a size that it cannot parse into 0.  Here every step goes
forward in the file, and a member is stored in a few bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import SEEK_END
from typing import IO, Literal, NamedTuple

from residua.data.sources.listing import escape_unprintable

BLOCK = 512
MAX_EXTENDED_HEADER = 2**20  # bytes of a long name or of a pax header; our choice
MAX_SIZE_DIGITS = 20
MAX_END_PADDING = 2**20  # zeros after the end of an archive that are looked at

MemberKind = Literal["file", "folder", "link", "sparse file", "special file"]
KIND_BY_TYPE: dict[bytes, MemberKind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "link",
    b"3": "special file",
    b"4": "special file",
    b"5": "folder",
    b"6": "special file",
    b"D": "folder",
    b"S": "sparse file",
}
TYPES_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
LONG_NAME, LONG_LINK, PAX, GLOBAL_PAX, OLD_SPARSE = b"L", b"K", (b"x", b"X"), b"g", b"S"
POSITIVE_BINARY, NEGATIVE_BINARY = 0x80, 0xFF  # first bytes of a size that is not in octal digits
# Bytes of the header of an old sparse file, and of its extensions, that announce an extension.
SPARSE_EXTENDED, SPARSE_EXTENDED_AGAIN = 482, 504


class TarDamageError(Exception):
    """An archive is damaged or forged: what follows a certain place cannot be read."""


class TarMember(NamedTuple):
    """A member of an archive: its name, and where its content is, in bytes."""

    name: str
    kind: MemberKind
    offset: int
    size: int


@dataclass(slots=True)
class PendingHeaders:
    """What extended headers say about the next member."""

    name: str = ""
    size: int | None = None
    is_sparse: bool = False


def iter_tar_members(file: IO[bytes]) -> Iterator[TarMember]:
    """Yield the members of an archive in order.

    Raises TarDamageError where the archive is damaged; the members before the damage are yielded.
    """
    end = file.seek(0, SEEK_END)
    position, pending = 0, PendingHeaders()
    while True:
        header = read_at(file, position, BLOCK)
        if not header:
            raise TarDamageError("its end mark is missing, and it may be truncated")
        if len(header) < BLOCK:
            raise TarDamageError(f"it ends inside the header at byte {position:,}")
        if not any(header):
            require_zeros_after_end(file, position, end)
            return
        check_header_sum(header, position)
        member_type = header[156:157]
        size = parse_tar_number(header[124:136], position)
        content = position + BLOCK
        if member_type in (LONG_NAME, LONG_LINK, *PAX, GLOBAL_PAX):
            read_extended_header(file, member_type, content, size, end, pending)
        else:
            if member_type == OLD_SPARSE:
                content = skip_sparse_maps(file, header, content)
            size = size if pending.size is None else pending.size
            member = make_tar_member(header, pending, content, size)
            if member_type in TYPES_WITHOUT_CONTENT:
                size = 0
            if content + size > end:
                excess = content + size - end
                raise TarDamageError(
                    f"{escape_unprintable(member.name)} would reach {excess:,} bytes past the end "
                    "of the archive"
                )
            yield member
            pending = PendingHeaders()
        position = content + -(-size // BLOCK) * BLOCK


def read_at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def check_header_sum(header: bytes, position: int) -> None:
    """Raise TarDamageError unless the sum of a header's bytes equals its stored checksum."""
    stored = header[148:156]
    unsigned = sum(header) - sum(stored) + len(stored) * ord(" ")
    try:
        wanted = int(stored.split(b"\0")[0], 8)
    except ValueError:
        wanted = -1
    # some old programs sum the bytes as signed numbers
    if wanted != unsigned and wanted != unsigned - 256 * count_high_bytes(header, stored):
        raise TarDamageError(f"it has no valid file header at byte {position:,}")


def count_high_bytes(header: bytes, stored_sum: bytes) -> int:
    return sum(byte > 127 for byte in header) - sum(byte > 127 for byte in stored_sum)


def parse_tar_number(field: bytes, position: int) -> int:
    """Parse a size, stored in octal digits or, if its first bit is set, as a binary number.

    Raises TarDamageError if it is negative, or no number.
    """
    try:
        if field[0] == NEGATIVE_BINARY:
            value = -1
        elif field[0] & POSITIVE_BINARY:
            value = int.from_bytes(field, "big") - (POSITIVE_BINARY << 8 * (len(field) - 1))
        else:
            value = int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise TarDamageError(f"the header at byte {position:,} states no valid size")
    return value


def read_extended_header(
    file: IO[bytes],
    member_type: bytes,
    content: int,
    size: int,
    end: int,
    pending: PendingHeaders,
) -> None:
    """Read a header that describes the next member into `pending`.

    Raises TarDamageError if the header is invalid, too long, or reaches past the end.
    """
    if size > MAX_EXTENDED_HEADER or content + size > end:
        raise TarDamageError(f"the extended header at byte {content:,} states no valid size")
    if member_type in (LONG_LINK, GLOBAL_PAX):
        return
    data = read_at(file, content, size)
    if member_type == LONG_NAME:
        pending.name = decode_name(data.split(b"\0")[0])
        return
    for key, value in iter_pax_records(data, content):
        if key == b"path":
            pending.name = decode_name(value)
        elif key == b"size":
            if not re.fullmatch(rb"\d{1,%d}" % MAX_SIZE_DIGITS, value):
                raise TarDamageError(f"the pax header at byte {content:,} states no valid size")
            pending.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            pending.is_sparse = True


def iter_pax_records(data: bytes, content: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a pax header.

    Its records are `LENGTH KEY=VALUE` and a newline; the length is that of the record.  Raises
    TarDamageError if a record is invalid.
    """
    start = 0
    while start < len(data) and data[start]:
        match = re.compile(rb"(\d{1,%d}) ([^=]+)=" % MAX_SIZE_DIGITS).match(data, start)
        stop = start + int(match[1]) if match else 0
        if match is None or not match.end() < stop <= len(data) or data[stop - 1] != ord("\n"):
            raise TarDamageError(f"the pax header at byte {content:,} is invalid")
        yield match[2], data[match.end() : stop - 1]
        start = stop


def skip_sparse_maps(file: IO[bytes], header: bytes, content: int) -> int:
    """Return the offset of an old sparse file's content, after the blocks that map its holes."""
    is_extended = bool(header[SPARSE_EXTENDED])
    while is_extended:
        block = read_at(file, content, BLOCK)
        if len(block) < BLOCK:
            raise TarDamageError(f"it ends inside the header at byte {content:,}")
        is_extended = bool(block[SPARSE_EXTENDED_AGAIN])
        content += BLOCK
    return content


def make_tar_member(header: bytes, pending: PendingHeaders, content: int, size: int) -> TarMember:
    """Make the member that a header and the extended headers before it describe."""
    name = pending.name or decode_name(header[:100].split(b"\0")[0])
    is_posix = header[257:263] == b"ustar\0"
    if is_posix and not pending.name and (prefix := header[345:500].split(b"\0")[0]):
        name = f"{decode_name(prefix)}/{name}"
    kind = KIND_BY_TYPE.get(header[156:157], "special file")
    if header[156:157] == b"\0" and name.endswith("/"):
        kind = "folder"  # in archives that are older than the type of folders
    if kind == "file" and pending.is_sparse:
        kind = "sparse file"
    return TarMember(name, kind, content, size)


def decode_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def require_zeros_after_end(file: IO[bytes], position: int, end: int) -> None:
    """Raise TarDamageError if anything but zeros follows the end mark of an archive."""
    rest = read_at(file, position, MAX_END_PADDING)
    if any(rest) or end - position > MAX_END_PADDING:
        raise TarDamageError(
            f"more data follow its end mark at byte {position:,}, as in archives that were joined"
        )
