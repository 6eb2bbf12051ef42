"""File names as text that is the same in every locale.

Python decodes file names by the locale.  In one without UTF-8, such as LC_ALL=C, the name café
becomes `caf` and two surrogates.  Texts in files and messages, and names of classes, are always the
UTF-8 reading of the bytes.
"""

import os
from pathlib import Path


def decode_file_name(name: str | Path) -> str:
    """Return the text of a file name or a path; each byte that is not UTF-8 becomes a surrogate."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def encode_file_name(text: str) -> str:
    """Undo `decode_file_name`: return the name as `open` and `Path` need it in this locale."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def encode_utf8(text: str) -> bytes:
    """Encode a text for a file; bytes of file names that are not UTF-8 become escapes: `\\xff`."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "backslashreplace").encode("utf-8")


def format_printable_path(path: str | Path) -> str:
    r"""Format a path as text; each byte that is not UTF-8 is shown as an escape such as `\xff`."""
    return encode_utf8(decode_file_name(path)).decode("utf-8")
