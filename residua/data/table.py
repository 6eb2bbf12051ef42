"""A table of paths and labels, and perhaps splits, as text or parquet: each row an image file."""

import csv
import stat
from collections.abc import Iterator
from pathlib import Path

from residua.data.listing import LABELS, Entry, Listing, Part, Problem, part_named, settled, shown
from residua.errors import DataError
from residua.extras import require

TABLES = (".csv", ".tsv", ".parquet")
COLUMNS = {"path": ("path", "file", "filename", "image", "filepath"), "label": LABELS, "split": ("split",)}


def of_table(table: Path) -> Listing:
    """The listing of a table with the columns path and label, and perhaps split; paths are relative to its folder."""
    rows = list(rows_of(table))
    classes = tuple(sorted({label for _, label, _ in rows}))
    numbers = {name: label for label, name in enumerate(classes)}
    entries, problems, root = [], [], table.parent
    for path, label, split in rows:
        place = root / path
        if stat.S_ISREG(mode(place)):
            entries.append(entry(place, shown(path), numbers[label], part_named(split)))
        else:
            detail = f"is in {shown(table.name)}, but there is no such file"
            problems.append(Problem(shown(path), "missing", detail))
    if rows and not entries:
        raise DataError(f"{table} names {len(rows)} files, and none of them is there: paths are relative to {root}")
    return Listing(str(table), classes, settled(sorted(entries, key=lambda e: e.name)), tuple(problems))


def entry(path: Path, name: str, label: int, part: Part) -> Entry:
    """A file's."""
    facts = path.stat()
    return Entry(path, name, label, part, (facts.st_size, facts.st_mtime_ns))


def mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def rows_of(table: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each row; DataError for a table without these columns."""
    try:
        rows = read_parquet(table) if table.suffix.lower() == ".parquet" else read_text(table)
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{table} is no table of text: {error}") from error
    if not rows:
        raise DataError(f"{table} is empty: it wants a line path,label and a line for each image")
    header = [name.strip().lower() for name in rows[0]]
    where = {column: next((header.index(name) for name in names if name in header), None) for column, names in COLUMNS.items()}
    if where["path"] is None or where["label"] is None:
        raise DataError(f"{table} has the columns {', '.join(rows[0])}: one must be called path and one label")
    for row in rows[1:]:
        if row:
            path, label, split = [row[i] if i is not None and i < len(row) else "" for i in where.values()]
            if path and label:
                yield path, shown(label), split


def read_text(table: Path) -> list[list[str]]:
    with open(table, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ","))


def read_parquet(table: Path) -> list[list[str]]:
    """Its header and its rows, of the columns of COLUMNS alone where it has them."""
    require("a parquet table")
    from pyarrow import parquet

    wanted = [name for names in COLUMNS.values() for name in names]
    header: list[str] = parquet.read_schema(table).names
    if found := [name for name in header if name.strip().lower() in wanted]:
        header = found
    columns: dict[str, list[object]] = parquet.read_table(table, columns=header).to_pydict()
    return [header, *(["" if value is None else str(value) for value in row] for row in zip(*columns.values(), strict=True))]
