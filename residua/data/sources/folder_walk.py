"""Walk through folders in sorted order, with links followed but never in a circle."""

import os
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path

from residua.data.sources.listing import is_visible, list_visible_children


def count_files(folder: Path, limit: int | None = None) -> int:
    """Count the visible files in a folder and its subfolders, up to `limit`."""
    return sum(1 for _ in islice(iter_file_names(folder), limit))


def iter_file_names(folder: Path) -> Iterator[str]:
    """Yield the names of the visible files below a folder, in no order.

    Links are followed, but not to a folder that contains them.  A folder that cannot be read counts
    as empty.
    """
    pending: list[tuple[str, tuple[str, ...]]] = [(str(folder), (os.path.realpath(folder),))]
    while pending:
        current, ancestors = pending.pop()
        try:
            with os.scandir(current) as children:
                visible = [child for child in children if is_visible(child.name)]
        except OSError:
            continue
        for child in visible:
            if not is_folder(child):
                yield child.name
            elif not child.is_symlink():
                real = os.path.join(ancestors[-1], child.name)
                pending.append((child.path, (*ancestors, real)))
            elif not contains_any_ancestor(real := os.path.realpath(child.path), ancestors):
                pending.append((child.path, (*ancestors, real)))


def is_folder(child: "os.DirEntry[str]") -> bool:
    """Return whether a child of a folder is a folder, or a link to one."""
    try:
        return child.is_dir()
    except OSError:  # e.g. a circle of links
        return False


def walk_with_loop_guard(
    folder: Path,
    list_children: Callable[[Path], list[Path]],
    on_loop: Callable[[Path], None],
) -> Iterator[Path]:
    """Yield the files below `folder` in sorted order, following links, at any depth.

    A link to a folder that contains the link is passed to `on_loop` and not followed.
    """
    pending: list[tuple[Path, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while pending:
        current, ancestors = pending.pop()
        if not ancestors:
            yield current
            continue
        for child in reversed(list_children(current)):
            if not os.path.isdir(child):  # also if its path is too long for the system
                pending.append((child, ()))
            elif not child.is_symlink():
                pending.append((child, (*ancestors, os.path.join(ancestors[-1], child.name))))
            elif contains_any_ancestor(real := os.path.realpath(child), ancestors):
                on_loop(child)
            else:
                pending.append((child, (*ancestors, real)))


def is_link_loop(folder: Path) -> bool:
    """Return whether a folder is a link to a folder that contains the link."""
    return folder.is_symlink() and contains_any_ancestor(
        os.path.realpath(folder), (os.path.realpath(folder.parent),)
    )


def contains_any_ancestor(real_path: str, ancestors: tuple[str, ...]) -> bool:
    """Return whether a folder is one of `ancestors`, or contains one of them."""
    prefix = os.path.join(real_path, "")
    return any(os.path.join(ancestor, "").startswith(prefix) for ancestor in ancestors)


def list_children_or_none(folder: Path) -> list[Path]:
    """List the visible files and folders in a folder; none if it cannot be read."""
    try:
        return list_visible_children(folder)
    except OSError:
        return []


def list_subfolders(folder: Path) -> list[Path]:
    """List the visible folders in a folder, sorted by name; none if it cannot be read."""
    try:
        with os.scandir(folder) as children:
            return sorted(
                folder / child.name
                for child in children
                if is_visible(child.name) and child.is_dir()
            )
    except OSError:
        return []


def holds_files_directly(folder: Path, suffixes: Collection[str] = ()) -> bool:
    """Return whether a folder itself holds a visible file, with one of `suffixes` if given."""
    return any(
        not suffixes or child.suffix.lower() in suffixes
        for child in list_children_or_none(folder)
        if child.is_file()
    )
