"""Hugging Face data sets, on the hub, in a folder written by `save_to_disk` or in a parquet file.

Each row is an image and its label.  The datasets library memory-maps its tables, so that a row is
read only when it is needed.  No code of a data set is run, because version 4 of the library no
longer supports loading scripts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from residua.data.sources.groups import describe_separated_groups, list_separated_groups
from residua.data.sources.huggingface_files import (
    find_parquet_files,
    find_rows_without_bytes,
    is_image_bytes_type,
    is_saved_dataset,
    list_save_marker_paths,
    load_huggingface_splits,
    stat_table_files,
)
from residua.data.sources.listing import (
    LABEL_COLUMN_NAMES,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    clean_cell,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    parse_split_name,
    sort_class_names,
    source_of_splits,
)
from residua.data.sources.table_columns import (
    SPLIT_COLUMN,
    find_group_column,
    normalise_header,
)
from residua.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

IMAGE_COLUMN_NAMES = ("image", "img")


class ImageColumn:
    """A column of encoded images, each of which is read when needed.

    A row may name a file instead of holding the image.  The file is read only if it is inside one
    of `allowed_folders`, the library's own cache folders.
    """

    def __init__(self, table: "Dataset", column: str, allowed_folders: Sequence[Path]) -> None:
        import datasets

        table = table.select_columns([column])
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.table, self.column, self.allowed_folders = table, column, allowed_folders
        self.size_and_mtime = stat_table_files(table)
        self.rows_elsewhere = find_rows_without_bytes(table, column)

    def read_row_bytes(self, row: int) -> bytes:
        """Read the encoded image in a row, or in the file that the row names.

        Raises OSError if the row has neither, or if the file is outside `allowed_folders`.
        """
        value = self.table[row][self.column]
        content, path = (
            (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        )
        if content is None and path:
            resolved_path = Path(path).resolve()
            if not any(resolved_path.is_relative_to(folder) for folder in self.allowed_folders):
                raise OSError(
                    f"the row refers to the file {escape_unprintable(path)}, "
                    "which is not read because it is outside the cache folders of Hugging Face"
                )
            return resolved_path.read_bytes()
        if not isinstance(content, bytes):
            raise OSError("the row contains no image")
        return content


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An `EmbeddedFile` in a table: the image in one row of a column."""

    column: ImageColumn
    row: int

    def read_bytes(self) -> bytes:
        return self.column.read_row_bytes(self.row)


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """A split of a Hugging Face data set: its original name, our name, its images and labels."""

    name: str
    split: OptionalSplit
    images: ImageColumn
    label_texts: list[str]  # empty for a row without a label
    groups: list[str]  # "" for all rows if no column names them


def list_huggingface_dataset(location: str) -> ImageListing:
    """List the images of a data set's train, validation and test splits, or of its only split.

    `location` is hf:OWNER/NAME, hf:OWNER/NAME:CONFIG, a folder written by `save_to_disk`, a parquet
    file, or a folder of parquet files.
    """
    path = Path(location)
    stamped_files = (
        list_save_marker_paths(path) if is_saved_dataset(path) else find_parquet_files(path)
    )
    stamped_files = stamped_files or [path]
    modified_times = tuple(file.stat().st_mtime_ns for file in stamped_files if file.is_file())
    return list_huggingface_cached(location, modified_times)


@lru_cache(maxsize=2)
def list_huggingface_cached(location: str, modified_times: tuple[int, ...]) -> ImageListing:
    """Do the work of `list_huggingface_dataset`, with a cache.

    `modified_times` is used only as part of the cache key, so that a changed data set on disk is
    listed again.
    """
    tables = load_huggingface_splits(location)
    features = next(iter(tables.values())).features
    image_column, label_column = find_image_and_label_columns(location, features)
    group_column, group_notes = find_group_column_by_name(location, next(iter(tables.values())))
    labelled_splits, problems = [], []
    for name, table in tables.items():
        split = parse_split_name(name)
        missing = [name for name in (image_column, label_column) if name not in table.features]
        if missing:
            detail = f"has no column {' and '.join(missing)}, and is skipped"
        elif not split and len(tables) > 1:
            detail = "is not a training, validation or test split, and is skipped"
        else:
            images = ImageColumn(table, image_column, list_huggingface_cache_folders())
            label_texts = read_label_texts(table, label_column)
            has_groups = group_column in table.features
            groups = read_label_texts(table, group_column) if has_groups else [""] * len(table)
            labelled_splits.append(LabelledSplit(name, split, images, label_texts, groups))
            continue
        problems.append(DataProblem(escape_unprintable(name), "other split", detail, len(table)))
    class_names = getattr(features[label_column], "names", ())
    classes = tuple(map(escape_unprintable, class_names)) or sort_class_names(
        text for labelled in labelled_splits for text in labelled.label_texts if text
    )
    label_by_name = index_class_names(classes)
    entries: list[ImageEntry] = []
    for labelled in labelled_splits:
        new_entries = make_row_entries(labelled, label_by_name)
        entries.extend(new_entries)
        if unlabelled_count := len(labelled.label_texts) - len(new_entries):
            detail = f"has {unlabelled_count:,} rows without a label, which are skipped"
            name = escape_unprintable(labelled.name)
            problems.append(DataProblem(name, "no class", detail, unlabelled_count))
    if not entries:
        raise DataError(f"{location} contains no image with a label")
    entries_with_test = ensure_test_split(entries)
    return ImageListing(
        location,
        classes,
        entries_with_test,
        (*problems, *list_separated_groups(entries_with_test)),
        source_of_splits(entries_with_test, "dataset"),
        notes=(
            *describe_merged_splits(labelled_splits),
            *group_notes,
            *describe_separated_groups(entries_with_test),
        ),
    )


def describe_merged_splits(labelled_splits: Sequence[LabelledSplit]) -> Iterator[str]:
    """Yield notes on splits of the data set that are used together, e.g. train and train_extra."""
    names_by_split: dict[OptionalSplit, list[str]] = {}
    for labelled in labelled_splits:
        names_by_split.setdefault(labelled.split, []).append(escape_unprintable(labelled.name))
    for split, names in names_by_split.items():
        if len(names) > 1:
            yield f"the splits {' and '.join(names)} are both used as the {split} split"


def make_row_entries(labelled: LabelledSplit, label_by_name: dict[str, int]) -> list[ImageEntry]:
    """Make the entries of a split's rows, without those that have no label."""
    return [
        ImageEntry(
            Path(),
            f"{escape_unprintable(labelled.name)}/{row}",
            label_by_name[text],
            labelled.split,
            (0, 0) if row in labelled.images.rows_elsewhere else labelled.images.size_and_mtime,
            embedded_file=ImageRow(labelled.images, row),
            group=group,
        )
        for row, (text, group) in enumerate(zip(labelled.label_texts, labelled.groups, strict=True))
        if text in label_by_name
    ]


def list_huggingface_cache_folders() -> list[Path]:
    """List the folders in which the library stores the files it downloads."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return [Path(folder).resolve() for folder in (HF_DATASETS_CACHE, HF_HUB_CACHE)]


def find_image_and_label_columns(location: str, features: "Features") -> tuple[str, str]:
    """Find the names of the image column and the label column by the types of the columns.

    Raises DataError if there is no image column or no label column, or if there are several and
    their names do not decide; see `pick_single_column`.
    """
    import datasets

    image_columns = [
        name for name, feature in features.items() if isinstance(feature, datasets.Image)
    ] or [field.name for field in features.arrow_schema if is_image_bytes_type(field.type)]
    label_columns = [
        name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ] or [
        name
        for name, feature in features.items()
        if name.lower() in LABEL_COLUMN_NAMES and isinstance(feature, datasets.Value)
    ]
    return (
        pick_single_column(location, "images", image_columns, IMAGE_COLUMN_NAMES, features),
        pick_single_column(location, "labels", label_columns, LABEL_COLUMN_NAMES, features),
    )


def find_group_column_by_name(location: str, table: "Dataset") -> tuple[str, tuple[str, ...]]:
    """Find the column that names the groups of images, or ""; and notes on what was guessed.

    A column of names of splits is not used, because the data set has splits of its own.  Raises
    DataError if several columns may name the groups.
    """
    names = list(table.features)
    header = [*normalise_header(names), SPLIT_COLUMN]
    index, _ = find_group_column(Path(location), header, ())
    if index is None:
        return "", ()
    texts = set(read_label_texts(table, names[index]))
    index, note = find_group_column(Path(location), header, [[text] * len(names) for text in texts])
    return ("" if index is None else names[index]), (note,) if note else ()


def pick_single_column(
    location: str,
    content_kind: str,
    candidates: list[str],
    usual_names: Sequence[str],
    features: "Features",
) -> str:
    """Pick the column to use: the only candidate, or the only candidate with a usual name.

    Raises DataError if there is no such column.
    """
    usually_named = [name for name in candidates if name.lower() in usual_names]
    for choices in (candidates, usually_named):
        if len(choices) == 1:
            return choices[0]
    if not candidates:
        raise DataError(
            f"{location} has the columns {', '.join(features)}, and none of them holds "
            f"{content_kind}"
        )
    raise DataError(
        f"{location} has {len(candidates)} columns of {content_kind}, {', '.join(candidates)}: "
        f"rename the right one to {usual_names[0]!r}, and save the data set with save_to_disk"
    )


def read_label_texts(table: "Dataset", label_column: str) -> list[str]:
    """Read the label of each row as text: a class name if the table has names; "" if missing."""
    feature = table.features[label_column]
    label_table = table.select_columns([label_column]).with_format("arrow")[:]
    values = label_table.column(label_column).to_pylist()
    names = getattr(feature, "names", None)
    if names is None:
        texts = ["" if value is None else str(value) for value in values]
        name_by_text = {text: escape_unprintable(clean_cell(text)) for text in set(texts)}
        return [name_by_text[text] for text in texts]
    return [
        escape_unprintable(names[value]) if value is not None and 0 <= value < len(names) else ""
        for value in values
    ]
