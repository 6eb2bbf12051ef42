"""A table of paths and labels, and perhaps splits, as text or parquet: each row an image file."""

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
    """The listing of a table with the columns path and label, and perhaps split; paths are relative to its folder."""
    rows = list(read_table_rows(table_path))
    classes = tuple(sorted({label for _, label, _ in rows}))
    label_by_name = {name: label for label, name in enumerate(classes)}
    entries, problems, root = [], [], table_path.parent
    for path, label, split in rows:
        image_path = root / path
        if stat.S_ISREG(file_mode_or_zero(image_path)):
            entries.append(
                make_file_entry(
                    image_path,
                    escape_unprintable(path),
                    label_by_name[label],
                    parse_split_name(split),
                )
            )
        else:
            detail = f"is in {escape_unprintable(table_path.name)}, but there is no such file"
            problems.append(DataProblem(escape_unprintable(path), "missing", detail))
    if rows and not entries:
        raise DataError(
            f"{table_path} names {len(rows)} files, and none of them is there: paths are relative to {root}"
        )
    return ImageListing(
        str(table_path),
        classes,
        ensure_test_split(sorted(entries, key=lambda e: e.name)),
        tuple(problems),
    )


def make_file_entry(path: Path, name: str, label: int, split: OptionalSplit) -> ImageEntry:
    """A file's."""
    file_stat = path.stat()
    return ImageEntry(path, name, label, split, (file_stat.st_size, file_stat.st_mtime_ns))


def file_mode_or_zero(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def read_table_rows(table_path: Path) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each row; DataError for a table without these columns."""
    try:
        rows = (
            read_parquet_rows(table_path)
            if table_path.suffix.lower() == ".parquet"
            else read_csv_rows(table_path)
        )
    except OSError as error:
        raise DataError(f"{table_path} cannot be read: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{table_path} is no table of text: {error}") from error
    if not rows:
        raise DataError(
            f"{table_path} is empty: it wants a line path,label and a line for each image"
        )
    header = [name.strip().lower() for name in rows[0]]
    column_indices = {
        column: next((header.index(name) for name in names if name in header), None)
        for column, names in COLUMN_NAMES.items()
    }
    if column_indices["path"] is None or column_indices["label"] is None:
        raise DataError(
            f"{table_path} has the columns {', '.join(rows[0])}: one must be called path and one label"
        )
    for row in rows[1:]:
        if row:
            path, label, split = [
                row[i] if i is not None and i < len(row) else "" for i in column_indices.values()
            ]
            if path and label:
                yield path, escape_unprintable(label), split


def read_csv_rows(table_path: Path) -> list[list[str]]:
    with open(table_path, encoding="utf-8-sig", newline="") as file:
        return list(
            csv.reader(file, delimiter="\t" if table_path.suffix.lower() == ".tsv" else ",")
        )


def read_parquet_rows(table_path: Path) -> list[list[str]]:
    """Its header and its rows, of the columns of COLUMNS alone where it has them."""
    require_extra("a parquet table")
    from pyarrow import parquet

    known_names = [name for names in COLUMN_NAMES.values() for name in names]
    header: list[str] = parquet.read_schema(table_path).names
    if known_columns := [name for name in header if name.strip().lower() in known_names]:
        header = known_columns
    columns: dict[str, list[object]] = parquet.read_table(table_path, columns=header).to_pydict()
    return [
        header,
        *(
            ["" if value is None else str(value) for value in row]
            for row in zip(*columns.values(), strict=True)
        ),
    ]
