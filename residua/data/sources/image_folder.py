"""The listing of a folder of photos.

A folder of splits holds DIR/train/CLASS/... with DIR/test/CLASS/..., DIR/val/CLASS/... or both.  If
it holds both, val is the dev split; otherwise val is the test split.  A folder of classes holds
DIR/CLASS/..., and is split by the SHA-256 sums of its images.  Classes are sorted by name.  Hidden
files are ignored, and links are followed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from residua.data.decode import has_image_signature
from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.folder_layout import read_folder_layout
from residua.data.sources.folder_walk import (
    count_files,
    is_link_loop,
    list_subfolders,
    walk_with_loop_guard,
)
from residua.data.sources.listing import (
    DataProblem,
    ImageListing,
    OptionalSplit,
    escape_unprintable,
    list_visible_children,
    printable_relative_path,
    source_of_splits,
)
from residua.data.sources.table import make_file_entry

LOOP_DETAIL = "is a link to a folder that contains it, and is not followed"


def list_image_folder(root: Path) -> ImageListing:
    """List the photos of a folder of splits, or of a folder of classes.

    Raises DataError if the layout can be read in two ways.
    """
    layout = read_folder_layout(root, [f for f in list_subfolders(root) if not is_link_loop(f)])
    problems = list(layout.left_out)
    left_out_names = {problem.path for problem in layout.left_out}
    files_by_class: dict[str, list[tuple[OptionalSplit, Path]]] = {}
    for split, folder in layout.folder_by_split.items():
        for child in list_valid_children(folder, root, problems):
            name = printable_relative_path(root, child)
            if not child.is_dir():
                detail = "is next to the folders of classes, not in one, and is skipped"
                problems.append(DataProblem(name, "no class", detail))
            elif is_link_loop(child):
                problems.append(DataProblem(name, "link loop", LOOP_DETAIL))
            elif name not in left_out_names:
                files = [(split, path) for path in walk_files(child, root, problems)]
                files_by_class.setdefault(escape_unprintable(child.name), []).extend(files)
    if root not in layout.folder_by_split.values():
        problems += find_images_beside_splits(root)
    classes = tuple(sorted(files_by_class))
    entries = [
        make_file_entry(path, printable_relative_path(root, path), label, split)
        for label, name in enumerate(classes)
        for split, path in files_by_class[name]
    ]
    entries.sort(key=lambda entry: entry.name)
    return ImageListing(
        str(root),
        classes,
        tuple(entries),
        tuple(problems),
        source_of_splits(entries, "folders"),
    )


def find_images_beside_splits(root: Path) -> list[DataProblem]:
    """Return a problem for each image that lies beside the folders of the splits."""
    problems: list[DataProblem] = []
    detail = "is next to the folders of the splits, not in one, and is skipped"
    for child in list_valid_children(root, root, problems):
        if child.suffix.lower() in IMAGE_SUFFIXES and not child.is_dir():
            problems.append(DataProblem(printable_relative_path(root, child), "no class", detail))
    return problems


def list_unlabelled_folder(root: Path) -> ImageListing | None:
    """List the images directly in a folder that has no folders of classes; None if it has some.

    All have the label 0, of a class without a name, and are in no split.
    """
    if not root.is_dir() or any(count_files(child, limit=1) for child in list_subfolders(root)):
        return None
    problems: list[DataProblem] = []
    entries = [
        entry
        for path in walk_files(root, root, problems)
        if has_image_signature(entry := make_file_entry(path, path.name, 0, ""))
    ]
    return ImageListing(str(root), ("",), tuple(entries), tuple(problems)) if entries else None


def list_valid_children(folder: Path, root: Path, problems: list[DataProblem]) -> list[Path]:
    """List the visible files and folders in `folder`, sorted by name.

    Broken links and special files such as sockets are left out and appended to `problems`.  If
    `folder` cannot be read, the list is empty and `folder` is appended to `problems`.
    """
    try:
        children = list_visible_children(folder)
    except OSError as error:
        name = printable_relative_path(root, folder)
        problems.append(DataProblem(name, "unreadable", f"cannot be read: {error.strerror}"))
        return []
    valid_children = []
    for path in children:
        if problem := find_path_problem(path):
            kind, detail = problem
            problems.append(DataProblem(printable_relative_path(root, path), kind, detail))
        else:
            valid_children.append(path)
    return valid_children


def find_path_problem(path: Path) -> tuple[str, str] | None:
    """Explain why a path is not a file or folder, as (kind, detail); None if it is one."""
    # unlike the methods of Path, these are False for a path that is too long for the system
    if os.path.isdir(path) or os.path.isfile(path):
        return None
    if os.path.islink(path):
        return "broken link", "is a link to a file that does not exist"
    return "no file", "is neither a file nor a folder"


def walk_files(folder: Path, root: Path, problems: list[DataProblem]) -> Iterator[Path]:
    """Yield the files in `folder` and its subfolders, following links.

    The problems that `list_valid_children` finds are appended to `problems`.  So are links to a
    folder that contains them, which are not followed.
    """

    def report_loop(link: Path) -> None:
        problems.append(DataProblem(printable_relative_path(root, link), "link loop", LOOP_DETAIL))

    yield from walk_with_loop_guard(
        folder, lambda place: list_valid_children(place, root, problems), report_loop
    )
