"""Find out what the folders of a photo folder are: splits, classes, or neither.

A folder is a split only if its name says so and it holds folders of classes.  A layout with two
possible meanings raises an error that states both, because with a wrong guess a network would train
on held-out images or learn to tell the splits apart.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.folder_walk import (
    count_files,
    holds_files_directly,
    is_link_loop,
    list_subfolders,
)
from residua.data.sources.listing import (
    OUTPUT_FILE_NAMES,
    SPLIT_NAMES,
    DataProblem,
    OptionalSplit,
    is_named_held_out,
    join_first_names,
    parse_split_name,
    printable_relative_path,
)
from residua.errors import DataError

KNOWN_SPLIT_NAMES = "train, val and test"
FOLD_PATTERN = re.compile(r"(k?fold|cv|split|part|partition|subset)s?[ _.-]?\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """The folder of each split, which holds class folders, and the folders that are left out."""

    folder_by_split: dict[OptionalSplit, Path]  # {"": folder} if the images' content decides
    left_out: tuple[DataProblem, ...]


def read_folder_layout(root: Path, folders: list[Path]) -> FolderLayout:
    """Divide the `folders` in `root` into split folders, class folders and other folders.

    Raises DataError if the layout can be read in two ways.
    """
    own_outputs = [folder for folder in folders if holds_own_output(folder)]
    folders = [folder for folder in folders if folder not in own_outputs]
    left_out = [
        describe_left_out(root, folder, "own output", "was written by residua, and is left out")
        for folder in own_outputs
    ]
    split_folders = find_split_folders(root, folders)
    others = [
        folder
        for folder in folders
        if not any(used.is_relative_to(folder) for used in split_folders.values())
        and count_files(folder, limit=1)
    ]
    if "train" not in split_folders:
        if split_folders and not others:  # to evaluate on, not to train on
            return FolderLayout(split_folders, tuple(left_out))
        refuse_classes_beside_held_out(root, split_folders, others)
        refuse_splits_as_classes(root, folders)
        refuse_held_out_as_class(root, folders)
        return FolderLayout({"": root}, tuple(left_out))
    if len(split_folders) == 1:
        refuse_classes_beside_train(root, split_folders["train"], others)
    left_out += [describe_unused_folder(root, folder) for folder in others]
    return FolderLayout(assign_split_roles(split_folders), tuple(left_out))


def assign_split_roles(split_folders: dict[OptionalSplit, Path]) -> dict[OptionalSplit, Path]:
    """Use the validation folder as the test split if there is no test folder.

    A training folder alone gets the key "", so that it is split by the content of its images.
    """
    if set(split_folders) == {"train"}:
        return {"": split_folders["train"]}
    if "test" not in split_folders:
        return {"train": split_folders["train"], "test": split_folders["dev"]}
    return split_folders


def find_split_folders(root: Path, folders: list[Path]) -> dict[OptionalSplit, Path]:
    """Find the folder of class folders of each split, e.g. `seg_train/seg_train` for "train".

    Raises DataError if two folders claim the same split.
    """
    found: dict[OptionalSplit, Path] = {}
    for folder in folders:
        split = parse_split_name(folder.name)
        if not split:
            continue
        class_root = unwrap_split_folder(folder)
        if not any(count_files(child, limit=1) for child in list_subfolders(class_root)):
            continue
        if other := found.get(split):
            raise DataError(
                f"{root} has two folders for the {split} split, "
                f"{printable_relative_path(root, other)} and "
                f"{printable_relative_path(root, class_root)}: rename or move one of them"
            )
        found[split] = class_root
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def unwrap_split_folder(folder: Path) -> Path:
    """Find the folder in a split folder that repeats its split, as in `seg_train/seg_train/CLASS`.

    Returns the split folder itself if it holds images, or other folders with files.
    """
    split = parse_split_name(folder.name)
    while not holds_files_directly(folder, IMAGE_SUFFIXES):
        used = [
            child
            for child in list_subfolders(folder)
            if not is_link_loop(child) and count_files(child, limit=1)
        ]
        if len(used) != 1 or parse_split_name(used[0].name) != split:
            break
        folder = used[0]
    return folder


def refuse_splits_as_classes(root: Path, folders: list[Path]) -> None:
    """Raise DataError if folders that would be classes look like splits.

    They do if their names are those of splits, or if several of them hold no images but subfolders
    of the same names; for folders that are named like folds, one such name is enough.
    """
    used = [folder for folder in folders if count_files(folder, limit=1)]
    named_splits = {parse_split_name(folder.name) for folder in used} - {""}
    names = join_first_names(folder.name for folder in used if parse_split_name(folder.name))
    if len(named_splits) > 1:
        raise DataError(
            f"{root} holds {names}, which are named like splits, but no train folder with one "
            "folder for each class: put the images of each class into a folder of their own, "
            f"e.g. {root / 'train' / 'CLASS' / 'image.jpg'}, or rename {names} if they are classes"
        )
    subfolders = {folder: list_inner_names(folder) for folder in used}
    with_subfolders_only = [
        folder for folder in used if subfolders[folder] and not holds_files_directly(folder)
    ]
    counts = Counter(name for folder in with_subfolders_only for name in subfolders[folder])
    shared = {name for name, count in counts.items() if count > 1}
    outer = join_first_names(folder.name for folder in with_subfolders_only)
    inner = join_first_names(sorted(shared))
    if any(parse_split_name(name) for name in shared):
        raise DataError(
            f"{root} holds folders ({outer}) that each hold the splits {inner}: put the splits "
            f"above the classes, e.g. {root / 'train' / with_subfolders_only[0].name}"
        )
    if shared and all(FOLD_PATTERN.fullmatch(folder.name) for folder in used):
        raise DataError(
            f"the folders {outer} of {root} are named like folds, and share the subfolders "
            f"{inner}: put all images of a class into one folder (residua study --folds divides "
            f"them), or rename {outer} if they are the classes"
        )
    if len(shared) > 1:
        raise DataError(
            f"the folders {outer} of {root} contain the same subfolders ({inner}): if {inner} are "
            f"the classes, rename {outer} to {KNOWN_SPLIT_NAMES}; if {outer} are the classes, move "
            "their images out of the subfolders"
        )


def list_inner_names(folder: Path) -> set[str]:
    """List the subfolders that hold files; those of a subfolder that holds nothing but others."""
    inner = [child for child in list_subfolders(folder) if count_files(child, limit=1)]
    while len(inner) == 1 and not is_link_loop(inner[0]) and not holds_files_directly(inner[0]):
        inner = [child for child in list_subfolders(inner[0]) if count_files(child, limit=1)]
    return {child.name for child in inner}


def refuse_held_out_as_class(root: Path, folders: list[Path]) -> None:
    """Raise DataError if a folder that would be a class is named like held-out images."""
    used = [folder for folder in folders if count_files(folder, limit=1)]
    held_out = [folder for folder in used if is_named_held_out(folder.name)]
    if held_out and held_out != used:
        raise DataError(
            f"{root} holds {held_out[0].name}, which is named like a held-out split, beside "
            f"{join_first_names(folder.name for folder in used if folder not in held_out)}: name "
            f"the split folders {KNOWN_SPLIT_NAMES}, or rename {held_out[0].name} if it is a class"
        )


def refuse_classes_beside_train(root: Path, train_folder: Path, others: list[Path]) -> None:
    """Raise DataError if folders of images lie beside the only split, and may be classes."""
    flat = [
        folder
        for folder in others
        if not parse_split_name(folder.name)
        and not any(count_files(child, limit=1) for child in list_subfolders(folder))
    ]
    if flat:
        counts = join_first_names(
            f"{folder.name} with {count_files(folder)} files" for folder in flat
        )
        inner = join_first_names(child.name for child in list_subfolders(train_folder))
        raise DataError(
            f"in {root}, the folder {train_folder.name!r} may be the training split (it holds the "
            f"folders {inner}) or a class (beside {counts}): if it is the split, move "
            f"{join_first_names(folder.name for folder in flat)} elsewhere; if it is a class, "
            f"rename {train_folder.name}"
        )


def refuse_classes_beside_held_out(
    root: Path, split_folders: dict[OptionalSplit, Path], others: list[Path]
) -> None:
    """Raise DataError if a held-out split lies beside class folders, and so would be a class."""
    if not split_folders:
        return
    split_folder = next(iter(split_folders.values()))
    inner = join_first_names(child.name for child in list_subfolders(split_folder))
    raise DataError(
        f"{root} holds the split {printable_relative_path(root, split_folder)} (folders {inner}) "
        "next "
        f"to {join_first_names(folder.name for folder in others)}, but no train folder: put "
        f"the training images of each class into a folder of their own, e.g. "
        f"{root / 'train' / 'CLASS' / 'image.jpg'}"
    )


def describe_unused_folder(root: Path, folder: Path) -> DataProblem:
    """Describe a folder beside the splits as a problem: its images are not used."""
    if parse_split_name(folder.name):
        detail = (
            "holds no folders of classes, and is left out: its images have no labels; "
            "classify them with residua predict"
        )
    else:
        detail = f"is not named like a split ({KNOWN_SPLIT_NAMES}), and is left out"
    return describe_left_out(root, folder, "left out", detail)


def describe_left_out(root: Path, folder: Path, kind: str, detail: str) -> DataProblem:
    return DataProblem(printable_relative_path(root, folder), kind, detail, count_files(folder))


def holds_own_output(folder: Path) -> bool:
    """Return whether a folder, or a folder in it, was written by a command of residua."""
    return any(
        (place / name).is_file()
        for place in (folder, *list_subfolders(folder))
        for name in OUTPUT_FILE_NAMES
    )
