"""Cells of CSV files that a spreadsheet must not take for formulas.

A spreadsheet computes a cell that begins with =, +, -, @, a tab or a carriage return.  Such a cell
gets an apostrophe in front of it, which spreadsheets take as the sign of text.
"""

import csv
import re
from collections.abc import Iterable
from io import StringIO
from typing import TypeVar

FORMULA_START = re.compile(r"'*[=+\-@\t\r]")  # or a text that looks as if it had been escaped

CellT = TypeVar("CellT")


def escape_formula(cell: CellT) -> CellT | str:
    """Put an apostrophe in front of a text that a spreadsheet would run as a formula."""
    if isinstance(cell, str) and FORMULA_START.match(cell):
        return f"'{cell}"
    return cell


def unescape_formula(cell: str) -> str:
    """Undo `escape_formula`."""
    return cell[1:] if cell.startswith("'") and FORMULA_START.match(cell) else cell


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Format rows as CSV text without formulas; None becomes an empty cell."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(escape_formula, row) for row in rows)
    return text.getvalue()
