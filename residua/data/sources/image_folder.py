"""The listing of a folder of photos.

A folder holds DIR/train/CLASS/... with DIR/test/CLASS/... or DIR/val/CLASS/..., or DIR/CLASS/...
alone, which is split by the SHA-256 sums of the images.  With both val and test, val is the dev
split.  Classes are sorted by name.  Hidden files are ignored, and links are not followed to files
outside the folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from residua.data.sources.listing import (
    SPLIT_NAMES,
    DataProblem,
    ImageListing,
    OptionalSplit,
    escape_unprintable,
    list_visible_children,
    printable_relative_path,
)
from residua.data.sources.table import make_file_entry


def list_image_folder(root: Path) -> ImageListing:
    """List the photos of a folder of splits, or of a folder of classes."""
    problems: list[DataProblem] = []
    children = list(iter_valid_children(root, root, problems))
    folder_by_split = find_split_folders([child for child in children if child.is_dir()])
    if folder_by_split:
        problems = []  # next to the folders of splits anything may lie
    else:
        folder_by_split = {"": root}
    files_by_class: dict[str, list[tuple[OptionalSplit, Path]]] = {}
    for split, folder in folder_by_split.items():
        # The problems of the root are known already.
        for child in iter_valid_children(folder, root, problems if folder != root else []):
            if child.is_dir():
                files = [(split, path) for path in walk_files(child, root, problems)]
                files_by_class.setdefault(escape_unprintable(child.name), []).extend(files)
            else:
                name = printable_relative_path(root, child)
                detail = "is next to the folders of classes, not in one, and is skipped"
                problems.append(DataProblem(name, "no class", detail))
    classes = tuple(sorted(files_by_class))
    entries = [
        make_file_entry(path, printable_relative_path(root, path), label, split)
        for label, name in enumerate(classes)
        for split, path in files_by_class[name]
    ]
    entries.sort(key=lambda entry: entry.name)
    return ImageListing(str(root), classes, tuple(entries), tuple(problems))


def find_split_folders(folders: list[Path]) -> dict[OptionalSplit, Path]:
    """Find the folder of each split by the folders' names; empty without a training folder.

    A training folder alone is returned under the key "", and is split by the SHA-256 sums of its
    images.  A validation folder without a test folder is the test split.
    """
    folder_by_name = {folder.name.lower(): folder for folder in folders}
    found: dict[OptionalSplit, Path] = {}
    for split, names in SPLIT_NAMES.items():
        if name := next((name for name in names if name in folder_by_name), None):
            found[split] = folder_by_name[name]
    if "train" not in found:
        return {}
    if len(found) == 1:
        return {"": found["train"]}
    if "test" not in found:
        return {"train": found["train"], "test": found["dev"]}
    return found


def iter_valid_children(folder: Path, root: Path, problems: list[DataProblem]) -> Iterator[Path]:
    """Yield the visible files and folders in `folder`, sorted by name.

    Children of any other kind, links out of `root`, and a `folder` that cannot be read are appended
    to `problems`.
    """
    try:
        children = list_visible_children(folder)
    except OSError as error:
        name = printable_relative_path(root, folder)
        problems.append(DataProblem(name, "unreadable", f"cannot be read: {error.strerror}"))
        return
    for path in children:
        if problem := find_path_problem(path, root):
            kind, detail = problem
            problems.append(DataProblem(printable_relative_path(root, path), kind, detail))
        else:
            yield path


def find_path_problem(path: Path, root: Path) -> tuple[str, str] | None:
    """Explain why a path is not a file or folder of the data set, as (kind, detail).

    None if the path is a file or folder of the data set.
    """
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.exists():
            return "broken link", "is a link to a file that does not exist"
        is_inside = target.is_relative_to(root)
        if target.is_dir() or not is_inside:
            destination = "to a folder" if is_inside else "to a place outside the data set"
            return "link outside", f"is a link {destination}, and is not followed"
    if not (path.is_dir() or path.is_file()):
        return "no file", "is neither a file nor a folder"
    return None


def walk_files(folder: Path, root: Path, problems: list[DataProblem]) -> Iterator[Path]:
    """Yield every file in `folder` and its subfolders; problems as in `iter_valid_children`."""
    for path in iter_valid_children(folder, root, problems):
        if path.is_dir():
            yield from walk_files(path, root, problems)
        else:
            yield path
