"""The listing of a folder of photos.

A folder of splits holds DIR/train/CLASS/... with DIR/test/CLASS/..., DIR/val/CLASS/... or both.  If
it holds both, val is the dev split; otherwise val is the test split.  A folder of classes holds
DIR/CLASS/..., and is split by the SHA-256 sums of its images.  Classes are sorted by name.  Hidden
files are ignored, and links are followed.
"""

import os
from pathlib import Path, PurePath

from residua.data.decode import has_image_signature
from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.folder_layout import read_folder_layout
from residua.data.sources.folder_scan import (
    LOOP_DETAIL,
    ScannedFile,
    scan_folder,
    scan_tree,
    scan_trees,
)
from residua.data.sources.folder_walk import count_files, is_link_loop, list_subfolders
from residua.data.sources.listing import (
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    escape_unprintable,
    index_class_names,
    join_first_names,
    source_of_splits,
)

MAX_NAMED_SUBFOLDERS = 3  # of each class, in the note about them


def list_image_folder(root: Path) -> ImageListing:
    """List the photos of a folder of splits, or of a folder of classes.

    Raises DataError if the layout can be read in two ways.
    """
    layout = read_folder_layout(root, [f for f in list_subfolders(root) if not is_link_loop(f)])
    problems = list(layout.left_out)
    left_out_names = {problem.path for problem in layout.left_out}
    class_folders: list[tuple[OptionalSplit, str]] = []  # paths within `root`
    for split, folder in layout.folder_by_split.items():
        scanned = scan_folder(root, "" if folder == root else str(folder.relative_to(root)))
        problems += scanned.problems
        detail = "is next to the folders of classes, not in one, and is skipped"
        for file in scanned.files:
            problems.append(DataProblem(escape_unprintable(file.relative_path), "no class", detail))
        for path in scanned.folders:
            name = escape_unprintable(path)
            if path in scanned.links and is_link_loop(root / path):
                problems.append(DataProblem(name, "link loop", LOOP_DETAIL))
            elif name not in left_out_names:
                class_folders.append((split, path))
    if root not in layout.folder_by_split.values():
        problems += find_images_beside_splits(root)
    class_names = [escape_unprintable(os.path.basename(path)) for _, path in class_folders]
    classes = tuple(sorted(set(class_names)))
    label_by_name = index_class_names(classes)
    entries: list[ImageEntry] = []
    trees = scan_trees(root, [path for _, path in class_folders])
    subfolders: dict[str, set[str]] = {}
    for (split, path), name, tree in zip(class_folders, class_names, trees, strict=True):
        problems += tree.problems
        subfolders[name] = subfolders.get(name, set()) | list_inner_folders(path, tree.files)
        entries += [
            make_scanned_entry(root, file, label_by_name[name], split) for file in tree.files
        ]
    entries.sort(key=lambda entry: entry.name)
    return ImageListing(
        str(root),
        classes,
        tuple(entries),
        tuple(problems),
        source_of_splits(entries, "folders"),
        notes=note_subfolders(subfolders),
    )


def list_inner_folders(class_folder: str, files: list[ScannedFile]) -> set[str]:
    """List the folders in a class folder that hold its files; in a single folder, those in it."""
    start = len(class_folder) + 1
    parents = {tuple(file.relative_path[start:].split("/")[:-1]) for file in files}
    while len(firsts := {parent[:1] for parent in parents}) == 1 and max(map(len, parents)) > 1:
        parents = {parent[1:] for parent in parents}
    return {name for first in firsts for name in first}


def note_subfolders(subfolders: dict[str, set[str]]) -> tuple[str, ...]:
    """Say that the images of several subfolders are of one class, the name of the outer folder."""
    if all(len(inner) < 2 for inner in subfolders.values()):
        return ()
    classes = join_first_names(
        f"{name} ({escape_unprintable(join_first_names(sorted(inner), MAX_NAMED_SUBFOLDERS))})"
        for name, inner in subfolders.items()
        if inner
    )
    return (f"images in subfolders are of the class that the outer folder names: {classes}",)


def make_scanned_entry(
    root: Path, file: ScannedFile, label: int, split: OptionalSplit
) -> ImageEntry:
    """Make the entry of a file that was found in the folder `root`."""
    name = escape_unprintable(file.relative_path)
    path = os.path.join(root, file.relative_path)
    return ImageEntry(path, name, label, split, file.size_and_mtime)


def find_images_beside_splits(root: Path) -> list[DataProblem]:
    """Return a problem for each image that lies beside the folders of the splits."""
    scanned = scan_folder(root, "")
    detail = "is next to the folders of the splits, not in one, and is skipped"
    return scanned.problems + [
        DataProblem(escape_unprintable(file.relative_path), "no class", detail)
        for file in scanned.files
        if PurePath(file.relative_path).suffix.lower() in IMAGE_SUFFIXES
    ]


def list_unlabelled_folder(root: Path) -> ImageListing | None:
    """List the images directly in a folder that has no folders of classes; None if it has some.

    All have the label 0, of a class without a name, and are in no split.
    """
    if not root.is_dir() or any(count_files(child, limit=1) for child in list_subfolders(root)):
        return None
    tree = scan_tree(root, "")
    entries = [
        entry
        for file in tree.files
        if has_image_signature(entry := make_scanned_entry(root, file, 0, ""))
    ]
    problems = tuple(tree.problems)
    return ImageListing(str(root), ("",), tuple(entries), problems) if entries else None
