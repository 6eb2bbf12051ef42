"""What the columns of a table of images hold: paths, classes, splits and groups.

Columns are found by name or, in a table without a header, by content.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.groups import ALL_GROUP_NAMES, GROUP_COLUMN
from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    OptionalSplit,
    clean_cell,
    describe_split_names,
    escape_unprintable,
    join_first_names,
    parse_split_name,
)
from residua.errors import DataError

ColumnKind = Literal["path", "label"]
# The documented names, of which the first one in a table wins, and other usual names, of which a
# table must have only one.
DOCUMENTED_NAMES: dict[ColumnKind, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "image", "filepath"),
    "label": LABEL_COLUMN_NAMES,
}
OTHER_NAMES: dict[ColumnKind, tuple[str, ...]] = {
    "path": (
        *("file_name", "image_path", "img", "img_path", "file_path", "image_file", "image_name"),
        *("imagepath", "image_filename", "img_name", "fname", "filenames", "filepaths"),
    ),
    "label": ("target", "class_name", "labels", "classname", "label_name", "category_name"),
}
SPLIT_COLUMN = "split"
# Further names of a split column, if a cell in it is the name of a split.
OTHER_SPLIT_NAMES = ("subset", "partition", "set", "data_set", "dataset", "usage", "phase")
HELD_OUT_FLAGS = (
    *("is_valid", "is_val", "is_validation", "is_dev", "is_test", "is_train", "is_holdout"),
    *("train", "val", "valid", "test", "holdout", "held_out"),
)
FOLD_NAMES = ("fold", "folds", "kfold", "k_fold")
ALL_COLUMN_NAMES = frozenset(
    (
        *(
            name
            for names in (DOCUMENTED_NAMES, OTHER_NAMES)
            for kind in names
            for name in names[kind]
        ),
        *(SPLIT_COLUMN, *OTHER_SPLIT_NAMES, *HELD_OUT_FLAGS, *FOLD_NAMES, *ALL_GROUP_NAMES),
    )
)
ROWS_SAMPLED = 100  # to find the columns of a table without a header


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The indices of a table's columns, and what was guessed about them."""

    path: int
    label: int
    split: int | None  # None if there is no such column
    has_header: bool
    notes: tuple[str, ...] = ()
    group: int | None = None


def find_table_columns(table_path: Path, rows: Sequence[Sequence[str]]) -> TableColumns:
    """Find the columns of a table, by the names in its first row or, without names, by content.

    Raises DataError if the column of paths or of classes is missing, or if it is ambiguous.
    """
    header = normalise_header(rows[0])
    if is_image_header(rows[0]):
        path = pick_named_column(table_path, header, "path")
        label = pick_named_column(table_path, header, "label")
        split, split_note = find_split_column(table_path, header, rows[1:])
        group, group_note = find_group_column(table_path, header, rows[1:])
        notes = [*describe_picked_columns(rows[0], path, label), split_note, group_note]
        return TableColumns(path, label, split, True, tuple(filter(None, notes)), group)
    if any(map(has_image_suffix, rows[0])):
        return find_columns_by_content(table_path, rows)
    raise DataError(
        f"{table_path} has the columns {', '.join(rows[0])}, but needs one of paths and one of "
        f"classes: rename the first to 'path' (or {', '.join(OTHER_NAMES['path'][:3])}) and the "
        f"second to 'label' (or {', '.join(OTHER_NAMES['label'][:2])})"
    )


def is_image_header(cells: Sequence[str]) -> bool:
    """Return whether the cells name a column of paths and a column of classes."""
    names = set(normalise_header(cells))
    return all(names & {*DOCUMENTED_NAMES[kind], *OTHER_NAMES[kind]} for kind in DOCUMENTED_NAMES)


def normalise_header(cells: Sequence[str]) -> list[str]:
    """Write the names of columns in lower case, with underscores: `File Name` is `file_name`."""
    return ["_".join(clean_cell(cell).lower().replace("-", " ").split()) for cell in cells]


def has_image_suffix(cell: str) -> bool:
    return PurePosixPath(clean_cell(cell)).suffix.lower() in IMAGE_SUFFIXES


def pick_named_column(table_path: Path, header: list[str], kind: ColumnKind) -> int:
    """Pick the index of the column of paths or of classes; raises DataError if it is ambiguous."""
    documented = [name for name in DOCUMENTED_NAMES[kind] if name in header]
    names = documented[:1] or [name for name in OTHER_NAMES[kind] if name in header]
    indices = [i for i, name in enumerate(header) if name in names]
    if len(indices) > 1:
        columns = " and ".join(header[i] for i in indices)
        raise DataError(
            f"{table_path} has the columns {columns}, either of which may hold the {kind}: "
            f"call one of them {kind}, and rename the other"
        )
    return indices[0]


def describe_picked_columns(header: Sequence[str], path: int, label: int) -> list[str]:
    """Note which columns were picked by an undocumented name, or from several candidates."""
    notes = []
    names = normalise_header(header)
    if names[path] in OTHER_NAMES["path"] or names[label] in OTHER_NAMES["label"]:
        notes.append(
            f"its paths are taken from the column {header[path].strip()}, and its classes from "
            f"{header[label].strip()}"
        )
    kinds: tuple[tuple[ColumnKind, int], ...] = (("path", path), ("label", label))
    for kind, picked in kinds:
        usual = {*DOCUMENTED_NAMES[kind], *OTHER_NAMES[kind]}
        unused = [header[i] for i, name in enumerate(names) if name in usual and i != picked]
        if unused:
            notes.append(
                f"of its columns {header[picked]} and {', '.join(unused)}, only {header[picked]} "
                "is used"
            )
    return notes


def find_split_column(
    table_path: Path, header: list[str], rows: Sequence[Sequence[str]]
) -> tuple[int | None, str]:
    """Find the index of the column of splits, or None; and a note on what was guessed, or "".

    Raises DataError if other columns seem to say what is held out.
    """
    if SPLIT_COLUMN in header:
        return header.index(SPLIT_COLUMN), ""
    candidates = [
        i
        for i, name in enumerate(header)
        if name in OTHER_SPLIT_NAMES
        if any(parse_split_name(cell) for cell in {row[i] for row in rows if i < len(row)})
    ]
    if len(candidates) == 1:
        return candidates[0], f"its splits are taken from the column {header[candidates[0]]}"
    flags = [name for name in header if name in HELD_OUT_FLAGS]
    if candidates or flags:
        names = " and ".join([*(header[i] for i in candidates), *flags])
        raise DataError(
            f"{table_path} seems to mark held-out rows in the column {names}: use one "
            f"column called {SPLIT_COLUMN} instead, whose values are {describe_split_names()}"
        )
    folds = [name for name in header if name in FOLD_NAMES]
    note = f"its column {folds[0]} is not used, and splits are made by content" if folds else ""
    return None, note


def find_group_column(
    table_path: Path, header: list[str], rows: Sequence[Sequence[str]]
) -> tuple[int | None, str]:
    """Find the index of the column of groups, or None; and a note on what was guessed, or "".

    Raises DataError if several columns may hold the groups, or if the column of that name holds the
    names of splits.
    """
    named = [name for name in header if name in ALL_GROUP_NAMES]
    if GROUP_COLUMN in named:
        named = [GROUP_COLUMN]
    if not named:
        return None, ""
    if len(named) > 1:
        raise DataError(
            f"{table_path} has the columns {' and '.join(named)}, either of which may name the "
            f"groups of images that stay together: call one of them {GROUP_COLUMN}"
        )
    index = header.index(named[0])
    cells = {row[index] for row in rows if index < len(row) and clean_cell(row[index])}
    if cells and all(map(parse_split_name, cells)):
        if SPLIT_COLUMN in header:
            return None, f"its column {named[0]} holds names of splits, and is not used"
        raise DataError(
            f"{table_path} has names of splits in its column {named[0]}: call it {SPLIT_COLUMN}"
        )
    if named[0] == GROUP_COLUMN:
        return index, ""
    return index, f"its groups are taken from the column {named[0]}"


def find_columns_by_content(table_path: Path, rows: Sequence[Sequence[str]]) -> TableColumns:
    """Find the columns of a table without a header, which has two or three columns.

    Raises DataError if the content of the columns allows more than one meaning.
    """
    sample = rows[:ROWS_SAMPLED]
    width = len(rows[0])
    paths = [
        i for i in range(width) if all(has_image_suffix(row[i]) for row in sample if i < len(row))
    ]
    others = [i for i in range(width) if i not in paths]
    splits = [i for i in others if all(parse_split_name(row[i]) for row in sample if i < len(row))]
    if width == 2:
        splits = []
    labels = [i for i in others if i not in splits]
    if len(paths) != 1 or len(labels) != 1 or len(splits) > 1:
        raise DataError(
            f"{table_path} has no header, and its columns may be understood in several ways: "
            "add a first row such as path,label,split"
        )
    split = splits[0] if splits else None
    ordinals = ("first", "second", "third")
    split_note = "" if split is None else f", and the {ordinals[split]} for the split"
    note = (
        f"it has no header: its {ordinals[paths[0]]} column is taken for the path, "
        f"the {ordinals[labels[0]]} for the class{split_note}"
    )
    return TableColumns(paths[0], labels[0], split, False, (note,))


def parse_split_column(table_path: Path, cells: Sequence[str]) -> list[OptionalSplit]:
    """Return the split of each cell; "" for all of them if all are empty.

    Raises DataError if a cell names no known split, or if only some cells are empty.
    """
    counts = Counter(cells)
    split_by_cell = {cell: parse_split_name(cell) for cell in counts}
    blank_count = sum(count for cell, count in counts.items() if not clean_cell(cell))
    unknown = {
        escape_unprintable(clean_cell(cell)): None
        for cell, split in split_by_cell.items()
        if clean_cell(cell) and not split
    }
    if unknown:
        row_count = len(cells) - blank_count - sum(counts[c] for c, s in split_by_cell.items() if s)
        raise DataError(
            f"{row_count:,} of {len(cells):,} rows of {table_path} have an unknown split "
            f"({join_first_names(unknown)}): use {describe_split_names()}"
        )
    if 0 < blank_count < len(cells):
        raise DataError(
            f"{blank_count:,} of {len(cells):,} rows of {table_path} have no split: leave all "
            f"splits empty, or give every row one of {describe_split_names()}"
        )
    return [split_by_cell[cell] for cell in cells]
