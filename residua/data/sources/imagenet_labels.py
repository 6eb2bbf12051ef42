"""The labels of ImageNet's validation photographs: Kaggle's table, or the development kit.

The kit numbers the classes by its own ILSVRC2012_ID, which is not their order by synset id; its
file meta.mat says which synset has which number.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from residua.data.sources.tar_archive import TarDamageError, iter_tar_members
from residua.errors import DataError

KAGGLE_LABELS = "LOC_val_solution.csv"
KIT = "ILSVRC2012_devkit_t12"
KIT_ARCHIVE = f"{KIT}.tar.gz"
META_FILE, TRUTH_FILE = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
MAX_LABEL_BYTES = 2**28  # of a label file or an unpacked kit, which has 15 MiB; our choice


class ValidationLabels(NamedTuple):
    """The synset id of each validation photograph by the stem of its name, and their source."""

    path: Path
    synset_by_image: dict[str, str]


def find_validation_labels(root: Path) -> ValidationLabels:
    """Find the labels beside `root`, the folder of val, or above it in Kaggle's layout.

    Raises DataError if there are none, or if they cannot be read.
    """
    places = [root, *list(root.parents)[:3]]
    for place in places:
        if (table := place / KAGGLE_LABELS).is_file():
            return ValidationLabels(table, read_kaggle_labels(table))
        for kit in (place / KIT, place / "devkit"):
            if (data := kit / "data").is_dir():
                return read_kit_labels(kit, partial(read_file, data))
        if (archive := place / KIT_ARCHIVE).is_file():
            return read_kit_labels(archive, unpack_kit(archive).get)
    raise DataError(
        f"the validation photographs in {root} have no labels: put {KIT_ARCHIVE}, or Kaggle's "
        f"{KAGGLE_LABELS}, beside them"
    )


def read_kaggle_labels(table: Path) -> dict[str, str]:
    """Read Kaggle's table, whose rows are `ILSVRC2012_val_00048981,n03995372 85 1 499 272`."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    labels: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) < 2 or not row[1].split():
            raise DataError(f"line {number} of {table} has no label: get the file again")
        labels[row[0]] = row[1].split()[0]
    return labels


def read_file(folder: Path, name: str) -> bytes | None:
    """Read a file in a folder; None if it is not there or has too many bytes."""
    path = folder / name
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_LABEL_BYTES else None
    except OSError:
        return None


def unpack_kit(archive: Path) -> dict[str, bytes]:
    """Unpack the two label files of the kit's archive in memory, by name."""
    try:
        with gzip.open(archive) as file:
            unpacked = BytesIO(file.read(MAX_LABEL_BYTES))
        return {
            Path(member.name).name: unpacked.getbuffer()[member.offset :][: member.size].tobytes()
            for member in iter_tar_members(unpacked)
            if Path(member.name).name in (META_FILE, TRUTH_FILE)
        }
    except (OSError, EOFError, zlib.error, TarDamageError) as error:
        raise DataError(f"{archive} cannot be read ({error}): get it again") from error


def read_kit_labels(kit: Path, read_kit_file: Callable[[str], bytes | None]) -> ValidationLabels:
    """Read the labels of a development kit, whose files `read_kit_file` reads by name."""
    meta, truth = read_kit_file(META_FILE), read_kit_file(TRUTH_FILE)
    if meta is None or truth is None:
        missing = META_FILE if meta is None else TRUTH_FILE
        raise DataError(f"{kit} lacks data/{missing}: give the development kit of ILSVRC2012")
    synset_by_number = dict(iterate_numbered_synsets(kit, meta))
    labels: dict[str, str] = {}
    for line_number, line in enumerate(truth.decode("ascii", "replace").split(), 1):
        synset = synset_by_number.get(line)
        if synset is None:
            raise DataError(
                f"line {line_number} of {TRUTH_FILE} in {kit} is {line[:20]}, which is no class of "
                f"its {META_FILE}: give the development kit of ILSVRC2012"
            )
        labels[f"ILSVRC2012_val_{line_number:08}"] = synset
    return ValidationLabels(kit, labels)


def iterate_numbered_synsets(kit: Path, meta: bytes) -> Iterator[tuple[str, str]]:
    """Yield the ILSVRC2012_ID, as text, and the synset id of each class in a meta.mat.

    The file has the synsets above the classes, too, which have children.
    """
    from scipy.io import loadmat

    try:
        rows: Any = loadmat(BytesIO(meta), squeeze_me=True)["synsets"]
        for row in rows:
            if not row["num_children"]:
                yield str(int(row["ILSVRC2012_ID"])), str(row["WNID"])
    except Exception as error:  # a damaged file may raise anything
        raise DataError(
            f"{META_FILE} of {kit} cannot be read ({type(error).__name__}): give the development "
            "kit of ILSVRC2012"
        ) from error
