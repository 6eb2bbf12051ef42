"""Tables of image paths, labels and, optionally, splits: CSV, TSV or parquet."""

import csv
import stat
from collections.abc import Iterator
from pathlib import Path

from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    parse_split_name,
)
from residua.errors import DataError
from residua.extras import require_extra

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
COLUMN_NAMES = {
    "path": ("path", "file", "filename", "image", "filepath"),
    "label": LABEL_COLUMN_NAMES,
    "split": ("split",),
}


def list_image_table(table_path: Path) -> ImageListing:
    """List the images of a table with the columns path, label and, optionally, split.

    Paths are relative to the table's folder.  Raises DataError if the table cannot be read or
    none of its files exists.
    """
    rows = list(read_table_rows(table_path))
    classes = tuple(sorted({label for _, label, _ in rows}))
    label_by_name = index_class_names(classes)
    entries, problems, root = [], [], table_path.parent
    for path, label, split_name in rows:
        name, image_path = escape_unprintable(path), root / path
        if stat.S_ISREG(file_mode_or_zero(image_path)):
            split = parse_split_name(split_name)
            entries.append(make_file_entry(image_path, name, label_by_name[label], split))
        else:
            table_name = escape_unprintable(table_path.name)
            detail = f"is listed in {table_name}, but there is no such file"
            problems.append(DataProblem(name, "missing", detail))
    if rows and not entries:
        raise DataError(
            f"{table_path} lists {len(rows)} files, and none of them exists: "
            f"paths are relative to {root}"
        )
    entries.sort(key=lambda entry: entry.name)
    return ImageListing(str(table_path), classes, ensure_test_split(entries), tuple(problems))


def make_file_entry(path: Path, name: str, label: int, split: OptionalSplit) -> ImageEntry:
    """Make the entry of an image that is stored as a file of its own."""
    file_stat = path.stat()
    return ImageEntry(path, name, label, split, (file_stat.st_size, file_stat.st_mtime_ns))


def file_mode_or_zero(path: Path) -> int:
    """The mode bits of a file; 0 if the file does not exist or the path cannot name a file."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def read_table_rows(table_path: Path) -> Iterator[tuple[str, str, str]]:
    """The path, label and split of each row that has a path and a label; the split may be empty.

    Raises DataError if the table is damaged, empty or without a path and a label column.
    """
    try:
        rows = (
            read_parquet_rows(table_path)
            if table_path.suffix.lower() == ".parquet"
            else read_csv_rows(table_path)
        )
    except OSError as error:
        raise DataError(f"{table_path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{table_path} is not a text table: {error}") from error
    if not rows:
        raise DataError(
            f"{table_path} is empty: it needs the header path,label and a row for each image"
        )
    header = [name.strip().lower() for name in rows[0]]
    column_indices = {
        column: next((header.index(name) for name in names if name in header), None)
        for column, names in COLUMN_NAMES.items()
    }
    if column_indices["path"] is None or column_indices["label"] is None:
        raise DataError(
            f"{table_path} has the columns {', '.join(rows[0])}: "
            "one must be called path and one label"
        )
    for row in rows[1:]:
        path, label, split_name = [
            row[i] if i is not None and i < len(row) else "" for i in column_indices.values()
        ]
        if path and label:
            yield path, escape_unprintable(label), split_name


def read_csv_rows(table_path: Path) -> list[list[str]]:
    with open(table_path, encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if table_path.suffix.lower() == ".tsv" else ","
        return list(csv.reader(file, delimiter=delimiter))


def read_parquet_rows(table_path: Path) -> list[list[str]]:
    """The header and the rows of a parquet table, as text.

    Only the columns of `COLUMN_NAMES` are read, or all columns if the table has none of them.
    """
    require_extra("a parquet table")
    from pyarrow import parquet

    known_names = [name for names in COLUMN_NAMES.values() for name in names]
    header: list[str] = parquet.read_schema(table_path).names
    if known_columns := [name for name in header if name.strip().lower() in known_names]:
        header = known_columns
    columns: dict[str, list[object]] = parquet.read_table(table_path, columns=header).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return [header, *(["" if value is None else str(value) for value in row] for row in rows)]
