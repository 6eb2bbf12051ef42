"""Tables of image paths, labels and, optionally, splits: CSV, TSV or parquet."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from residua.data.sources.groups import describe_separated_groups, list_separated_groups
from residua.data.sources.listing import (
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    clean_cell,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    join_first_names,
    source_of_splits,
    strip_unicode_blanks,
)
from residua.data.sources.table_columns import (
    ALL_COLUMN_NAMES,
    find_table_columns,
    normalise_header,
    parse_split_column,
)
from residua.data.sources.table_text import read_text_table
from residua.errors import DataError
from residua.extras import require_extra
from residua.file_names import encode_file_name
from residua.spreadsheet_cells import unescape_formula

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
FileKey = tuple[int, int] | str  # device and inode, or the real path where there are no inodes


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table: the path as it is written, the class, the split, and the group or ""."""

    path: str
    class_name: str
    split: OptionalSplit
    group: str = ""


@dataclass(slots=True)
class ListedFile:
    """A file that a table lists, with its first row and the contradictions in later rows."""

    entry: ImageEntry
    repeats: int = 0
    other_names: list[str] = field(default_factory=list)  # paths by which it is listed, too
    other_labels: list[int] = field(default_factory=list)
    splits: set[OptionalSplit] = field(default_factory=set)  # if its rows state several
    other_groups: list[str] = field(default_factory=list)


def list_image_table(table_path: Path) -> ImageListing:
    """List the images of a table with the columns path and label, and perhaps split and group.

    Paths are relative to the table's folder.  A file that is listed several times is one image, of
    the class in its first row.  Raises DataError if the table cannot be read, if none of its files
    exists, or if its splits cannot be understood.
    """
    rows, problems, notes = read_table_rows(table_path)
    classes = tuple(sorted({row.class_name for row in rows}))
    label_by_name = index_class_names(classes)
    listed: dict[FileKey, ListedFile] = {}
    root, used_slashes = table_path.parent, False
    root_text = str(root)
    for row in rows:
        found = find_listed_file(root_text, row.path)
        if found is None:
            table_name = escape_unprintable(table_path.name)
            detail = f"is listed in {table_name}, but there is no such file"
            problems.append(DataProblem(escape_unprintable(row.path), "missing", detail))
            continue
        spelling, file_stat = found
        used_slashes |= "\\" in row.path and "\\" not in spelling
        entry = make_stat_entry(
            root / spelling,
            escape_unprintable(spelling),
            label_by_name[row.class_name],
            row.split,
            file_stat,
            row.group,
        )
        add_listed_file(listed, entry, file_stat)
    if rows and not listed:
        guesses = f" (guessed: {'; '.join(notes)})" if notes else ""
        raise DataError(
            f"{table_path} lists {len(rows)} files, and none of them exists: "
            f"paths are relative to {root}{guesses}"
        )
    problems += [problem for file in listed.values() for problem in describe_repeats(file, classes)]
    contradictions = [problem for problem in problems if problem.kind == "two labels"]
    if contradictions:
        first = contradictions[0]
        notes.append(
            f"{len(contradictions):,} of its files are listed as different classes, e.g. "
            f"{first.path} {first.detail.removeprefix('is listed ')}"
        )
    if used_slashes:
        notes.append("the backslashes in its paths are taken for slashes")
    entries = ensure_test_split(
        sorted((file.entry for file in listed.values()), key=lambda entry: entry.name)
    )
    problems += list_separated_groups(entries)
    notes += describe_separated_groups(entries)
    return ImageListing(
        str(table_path),
        classes,
        entries,
        tuple(problems),
        source_of_splits(entries, "column"),
        notes=tuple(f"{escape_unprintable(table_path.name)}: {note}" for note in notes),
    )


def make_file_entry(path: Path, name: str, label: int, split: OptionalSplit) -> ImageEntry:
    """Make the entry of an image file at `path`, with its size and modification time."""
    return make_stat_entry(path, name, label, split, path.stat())


def make_stat_entry(
    path: Path,
    name: str,
    label: int,
    split: OptionalSplit,
    file_stat: os.stat_result,
    group: str = "",
) -> ImageEntry:
    size_and_mtime = file_stat.st_size, file_stat.st_mtime_ns
    return ImageEntry(path, name, label, split, size_and_mtime, group=group)


def find_listed_file(root: str, cell: str) -> tuple[str, os.stat_result] | None:
    """Find the spelling of a path under which its file exists, and the file's `os.stat`.

    Returns None if there is no such file.  The spellings are the path itself, and then the path
    without blanks around it, without the apostrophe that `escape_formula` adds, or with slashes
    instead of backslashes.
    """
    spelling = encode_file_name(cell)
    if file_stat := find_file_stat(os.path.join(root, spelling)):
        return spelling, file_stat
    stripped = strip_unicode_blanks(cell)
    for text in (stripped, unescape_formula(stripped), stripped.replace("\\", "/")):
        spelling = encode_file_name(text)
        if file_stat := find_file_stat(os.path.join(root, spelling)):
            return spelling, file_stat
    return None


def find_file_stat(path: str) -> os.stat_result | None:
    """Find the `os.stat` of a file; None if there is no such file, or if its path is invalid."""
    try:
        file_stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return file_stat if stat.S_ISREG(file_stat.st_mode) else None


def add_listed_file(
    listed: dict[FileKey, ListedFile], entry: ImageEntry, file_stat: os.stat_result
) -> None:
    """Add an entry; if its file is listed already, note the contradictions instead.

    A file that is listed both for training and as held out is held out.
    """
    key: FileKey = (file_stat.st_dev, file_stat.st_ino)
    if not file_stat.st_ino:
        key = os.path.realpath(entry.path)
    first = listed.get(key)
    if first is None:
        listed[key] = ListedFile(entry)
        return
    first.repeats += 1
    if entry.name != first.entry.name:
        first.other_names.append(entry.name)
    if entry.label != first.entry.label:
        first.other_labels.append(entry.label)
    if entry.group != first.entry.group:
        first.other_groups.append(entry.group)
    if entry.split != first.entry.split:
        first.splits |= {entry.split, first.entry.split}
        if first.entry.split == "train":
            first.entry = replace(first.entry, split=entry.split)


def describe_repeats(file: ListedFile, classes: Sequence[str]) -> Iterator[DataProblem]:
    """Yield the problems of a file that is listed in several rows."""
    entry = file.entry
    if not file.repeats:
        return
    detail = f"is listed {file.repeats + 1} times, and used once"
    if file.other_names:
        others = join_first_names(dict.fromkeys(file.other_names))
        detail = f"is the same file as {others}, and is used once"
    yield DataProblem(entry.name, "listed twice", detail, file.repeats)
    if file.other_labels:
        others = join_first_names(classes[label] for label in dict.fromkeys(file.other_labels))
        detail = f"is listed as {classes[entry.label]} and as {others}: the first one is used"
        yield DataProblem(entry.name, "two labels", detail, file.repeats)
    if file.splits:
        names = " and ".join(sorted(file.splits))
        detail = f"is listed in the splits {names}: it is used in {entry.split}"
        yield DataProblem(entry.name, "two splits", detail, file.repeats)
    if file.other_groups:
        groups = (entry.group, *dict.fromkeys(file.other_groups))
        names = " and ".join(group or "none" for group in groups)
        detail = f"is listed in the groups {names}: the first one is used"
        yield DataProblem(entry.name, "two groups", detail, file.repeats)


def read_table_rows(table_path: Path) -> tuple[list[TableRow], list[DataProblem], list[str]]:
    """Return the rows with path and label, a problem for the other rows, and notes on guesses.

    Raises DataError if the table is damaged or empty, lacks a path or a label column, or has splits
    that cannot be understood.
    """
    is_parquet = table_path.suffix.lower() == ".parquet"
    cells, notes = (
        (read_parquet_rows(table_path), []) if is_parquet else read_text_table(table_path)
    )
    if not cells:
        raise DataError(
            f"{table_path} is empty: it needs the header path,label and a row for each image"
        )
    columns = find_table_columns(table_path, cells)
    width = len(cells[0])
    content = cells[1:] if columns.has_header else cells
    for row in content:
        if len(row) > width and any(map(str.strip, row[width:])):
            raise DataError(
                f"{table_path} has {width} columns, but a row with {len(row)} cells "
                f"({' | '.join(row)}): put cells that contain a delimiter in quotes"
            )
    paths, labels, splits, groups = [
        [row[i] if i is not None and i < len(row) else "" for row in content]
        for i in (columns.path, columns.label, columns.split, columns.group)
    ]
    name_by_cell = {
        cell: escape_unprintable(clean_cell(unescape_formula(cell))) for cell in {*labels, *groups}
    }
    rows = [
        TableRow(path, name_by_cell[label], split, name_by_cell[group])
        for path, label, split, group in zip(
            paths, labels, parse_split_column(table_path, splits), groups, strict=True
        )
        if name_by_cell[label] and path.strip()
    ]
    problems = []
    if missing := len(content) - len(rows):
        detail = f"has {missing:,} rows without a path or a label, which are skipped"
        name = escape_unprintable(table_path.name)
        problems.append(DataProblem(name, "no class", detail, missing))
    notes = [*notes, *columns.notes]
    if columns.group is not None and (alone := sum(not row.group for row in rows)):
        notes.append(f"{alone:,} of its rows name no group: each is a group of its own")
    return rows, problems, notes


def read_parquet_rows(table_path: Path) -> list[list[str]]:
    """Read the header and the rows of a parquet table, as text.

    Only columns with known names are read, or all columns if the table has none of them.
    """
    require_extra("a parquet table")
    from pyarrow import parquet

    try:
        header: list[str] = parquet.read_schema(table_path).names
        names = normalise_header(header)
        if known := [
            column for column, name in zip(header, names, strict=True) if name in ALL_COLUMN_NAMES
        ]:
            header = known
        columns: dict[str, list[object]] = parquet.read_table(
            table_path, columns=header
        ).to_pydict()
    except (OSError, ValueError) as error:
        raise DataError(f"{table_path} cannot be read as parquet: {error}") from error
    rows = zip(*columns.values(), strict=True)
    return [header, *(["" if value is None else str(value) for value in row] for row in rows)]
