"""Text tables of unknown encoding and delimiter -> rows of cells; what was guessed is said."""

import codecs
import csv
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from residua.data.sources.table_columns import has_image_suffix, is_image_header
from residua.errors import DataError

DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
LINES_SAMPLED = 100  # to find the delimiter
# Longer byte order marks first, because that of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
EXCEL_DELIMITER_LINE = re.compile(r"\ufeff?sep=(.)\r?\n")


def read_text_table(table_path: Path) -> tuple[list[list[str]], list[str]]:
    """Read the rows of a text table, without empty ones, and notes on what was guessed.

    Raises DataError if the file cannot be read, is no text table, or has two possible delimiters.
    """
    try:
        text, note = decode_table_text(table_path.read_bytes())
        first_line = EXCEL_DELIMITER_LINE.match(text)
        if first_line:
            text = text[first_line.end() :]
        delimiter = first_line[1] if first_line else find_delimiter(table_path, text)
        rows = parse_rows(text.splitlines(keepends=True), delimiter)
    except OSError as error:
        raise DataError(f"{table_path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        encoding = "Windows-1252" if error.encoding == "charmap" else error.encoding.upper()
        raise DataError(
            f"{table_path} is not a text table: its byte {error.start:,} is not text in {encoding}"
        ) from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{table_path} is not a text table: {error}") from error
    notes = [note] if note else []
    if delimiter != usual_delimiter(table_path):
        name = DELIMITER_NAMES.get(delimiter, repr(delimiter))
        notes.append(f"its cells are separated by {name}")
    return rows, notes


def decode_table_text(content: bytes) -> tuple[str, str]:
    """Decode the bytes of a table, and describe the encoding, or "" if it is UTF-8.

    Raises ValueError if the bytes are no text.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "")
    note = f"it is encoded in {encoding.upper()}" if encoding not in ("", "utf-8-sig") else ""
    if not encoding and b"\0" in content:
        # ASCII characters in UTF-16 have a zero as their second or as their first byte
        is_little = content[1::2].count(0) > content[::2].count(0)
        encoding = "utf-16-le" if is_little else "utf-16-be"
        note = f"it is taken for {encoding.upper()}"
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding:
            raise
        text = content.decode("cp1252")
        example = next(word for word in re.split(r"[\s,;|]+", text) if not word.isascii())
        note = f"it is not UTF-8, and is taken for Windows-1252, e.g. {example[:40]}"
    if control := re.search(r"[\x00-\x08\x0e-\x1f]", text):
        raise ValueError(f"it contains the control character {control[0]!r}")
    return text, note


def usual_delimiter(table_path: Path) -> str:
    return "\t" if table_path.suffix.lower() == ".tsv" else ","


def find_delimiter(table_path: Path, text: str) -> str:
    """Find the delimiter that divides the first row into the column names of a table of images.

    If there are no such names, it is the only delimiter that gives all first rows the same number
    of cells, or else the usual one.  Raises DataError if two delimiters qualify.
    """
    lines = list(islice(text.splitlines(keepends=True), LINES_SAMPLED))
    tables = {}
    for delimiter in DELIMITER_NAMES:
        try:
            tables[delimiter] = parse_rows(lines, delimiter, is_sample=True)
        except csv.Error:
            continue
    with_header = [d for d, rows in tables.items() if rows and is_image_header(rows[0])]
    regular = [
        delimiter
        for delimiter, rows in tables.items()
        if rows and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
        if any(has_image_suffix(cell) for cell in rows[0])
    ]
    for candidates in (with_header, regular):
        if len(candidates) > 1:
            names = " or ".join(DELIMITER_NAMES[delimiter] for delimiter in candidates)
            raise DataError(
                f"the cells of {table_path} may be separated by {names}: "
                "put cells that contain one of them in quotes"
            )
        if candidates:
            return candidates[0]
    return usual_delimiter(table_path)


def parse_rows(lines: Iterable[str], delimiter: str, *, is_sample: bool = False) -> list[list[str]]:
    """Parse the lines of a table into rows of cells, without empty rows.

    Raises csv.Error for invalid quotes.  With `is_sample`, the lines may end inside quotes.
    """
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        rows.extend(row for row in reader if any(map(str.strip, row)))
    except csv.Error as error:
        if is_sample and "unexpected end" in str(error):
            return rows
        raise csv.Error(f"line {reader.line_num}: {error}") from error
    return rows
