"""Colours and bold text, only for terminals that show them and users who want them."""

import os
import re
import sys
from typing import TextIO

BOLD, RED, RESET = "\x1b[1m", "\x1b[1;31m", "\x1b[0m"  # ECMA-48, select graphic rendition

FIRST_COLUMN = re.compile(r"^\S+(?: \S+)*(?=  )", re.MULTILINE)
"""The words at the start of a line that at least two spaces separate from the rest."""


def shows_colours(stream: TextIO) -> bool:
    """Return whether to write colours to a stream.

    A non-empty NO_COLOR forbids colours; otherwise a non-empty FORCE_COLOR forces them.  Without
    both, terminals get colours, except old Windows consoles and those whose TERM is `dumb`.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    is_old_console = sys.platform == "win32" and "WT_SESSION" not in os.environ
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not is_old_console


def embolden_first_column(text: str, stream: TextIO) -> str:
    """Make the first column of tables in `text` bold, if `stream` shows colours."""
    return FIRST_COLUMN.sub(rf"{BOLD}\g<0>{RESET}", text) if shows_colours(stream) else text


def redden_text(text: str, stream: TextIO) -> str:
    """Make `text` red and bold, if `stream` shows colours."""
    return f"{RED}{text}{RESET}" if shows_colours(stream) else text
