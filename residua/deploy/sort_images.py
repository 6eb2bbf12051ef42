"""Sort classified images into one folder per class, as copies or as links."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from residua.errors import DataError, UsageError
from residua.file_names import encode_file_name, format_printable_path
from residua.files import FULL_DISK_ERRORS, atomic_write

UNSURE_FOLDER = "unsure"
DEFAULT_UNSURE_BELOW = 0.5  # our choice: the class is then more probable than all others together
MAX_NAMED_CLASSES = 20  # in the sentence that says how many images went where
MAX_NAME_BYTES = 255  # of a file name, in most file systems
NAME_ERRORS = {errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG}  # of a name that is not allowed


class ImageSorter:
    """Puts images into class folders, inside a folder that is moved into place at the end.

    No file is overwritten: of two images named `a.jpg` in one class, the second becomes `a-2.jpg`.
    """

    def __init__(self, target: Path, staging: Path, unsure_below: float, links: bool) -> None:
        """The files are written to `staging`, which will be at `target` in the end."""
        self.target, self.staging = target, staging
        self.unsure_below, self.links = unsure_below, links
        self.folders: dict[str, Path] = {}  # in `staging`, by class
        self.counts: Counter[str] = Counter()  # images by class
        self.last_numbers: Counter[tuple[str, str]] = Counter()  # by class and file name

    def make_folders(self, classes: Sequence[str]) -> None:
        """Make a folder for each class, so that the file system itself says which names it allows.

        Raises UsageError if the file system does not allow a class's name, or treats two names as
        the same, e.g. `cat` and `Cat` where letter case is ignored.
        """
        self.staging.mkdir()
        for name in (*classes, UNSURE_FOLDER) if self.unsure_below else classes:
            folder = self.staging / encode_file_name(name)
            try:
                folder.mkdir()
            except FileExistsError:
                raise invalid_folder_error(
                    name, "is another folder's on this file system"
                ) from None
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                raise invalid_folder_error(name, "is not a valid folder name here") from error
            self.folders[name] = folder

    def place_image(self, image: Path, class_name: str, probability: float) -> Path:
        """Copy or link an image file into its folder; return the path that it will have.

        The folder is that of the class, or `UNSURE_FOLDER` if the probability is too low.  Raises
        DataError if the folder's file system does not allow the file's name, or does not support
        links.
        """
        if Path(os.path.realpath(image)).is_relative_to(self.staging):
            raise UsageError(
                f"{image} is a copy that this command has just made: "
                "choose a folder for --sort-into outside of the searched folders"
            )
        is_sure = not self.unsure_below or probability >= self.unsure_below
        name = class_name if is_sure else UNSURE_FOLDER
        while True:
            self.last_numbers[name, image.name] += 1
            number = self.last_numbers[name, image.name]
            path = self.folders[name] / number_file_name(image.name, number)
            try:
                self.write_image(image, path)
            except FileExistsError:
                continue
            self.counts[name] += 1
            return self.target / path.relative_to(self.staging)

    def write_image(self, image: Path, path: Path) -> None:
        """Write a copy of an image file, or a link to it, to a new path."""
        try:
            if self.links:
                os.symlink(os.path.join(os.path.realpath(image.parent), image.name), path)
            else:
                copy_with_time(image, path)
        except FileExistsError:
            raise
        except OSError as error:
            is_link_problem = self.links and error.errno not in FULL_DISK_ERRORS
            if error.errno not in NAME_ERRORS and not is_link_problem:
                raise
            verb, fix = ("linked", "leave out --link") if self.links else ("copied", "rename it")
            raise DataError(
                f"{image} cannot be {verb} to {self.target} ({error.strerror}): {fix}"
            ) from error

    def delete_empty_folders(self) -> None:
        for name, folder in self.folders.items():
            if not self.counts[name]:
                folder.rmdir()

    def describe(self) -> str:
        """Say how many images went where: `sorted 3 images into DIR: 2 cat, 1 unsure`."""
        counts = {name: self.counts[name] for name in self.folders if self.counts[name]}
        total = sum(counts.values())
        unsure = counts.pop(UNSURE_FOLDER, 0) if self.unsure_below else 0
        parts = [f"{count:,} {name}" for name, count in counts.items()]
        if len(counts) > MAX_NAMED_CLASSES:
            parts = [f"{total - unsure:,} in {len(counts):,} classes"]
        if unsure:
            parts.append(f"{unsure:,} {UNSURE_FOLDER}")
        place = format_printable_path(self.target)
        return f"sorted {total:,} image{'s' * (total != 1)} into {place}: {', '.join(parts)}"


@contextmanager
def open_image_sorter(
    target: Path,
    classes: Sequence[str],
    unsure_below: float = DEFAULT_UNSURE_BELOW,
    links: bool = False,
) -> Iterator[ImageSorter]:
    """Yield an `ImageSorter` for a new folder, which is put at `target` on success.

    After an error or a kill there is no folder, since a folder with some of the images would look
    complete.  Images whose probability is below `unsure_below` go into `UNSURE_FOLDER`.  With
    `links` the folder holds symbolic links with absolute targets instead of copies.  Raises
    UsageError as `check_sort_folder` does.
    """
    with atomic_write(target) as staging:
        # again, since another process may have written to it while its lock was waited for
        check_sort_folder(target, classes, unsure_below)
        sorter = ImageSorter(target, staging, unsure_below, links)
        sorter.make_folders(classes)
        yield sorter
        sorter.delete_empty_folders()
        require_empty_folder(target)  # what came into it meanwhile must not be replaced


def check_sort_folder(
    target: Path, classes: Sequence[str], unsure_below: float = DEFAULT_UNSURE_BELOW
) -> None:
    """Raise UsageError if `target` is neither new nor empty, or if a class cannot name a folder."""
    require_empty_folder(target)
    for name in classes:
        if name in ("", os.curdir, os.pardir) or os.path.basename(name) != name or "\0" in name:
            raise invalid_folder_error(name, "is not a valid folder name")
        try:
            encode_file_name(name)
        except UnicodeEncodeError:
            raise invalid_folder_error(name, "is not valid text") from None
    if unsure_below and UNSURE_FOLDER in classes:
        raise UsageError(
            f"the model has a class {UNSURE_FOLDER!r}, which is also the folder of unsure images: "
            "add --unsure-below 0, which needs no such folder"
        )


def require_empty_folder(folder: Path) -> None:
    """Raise UsageError if `folder` exists but is not an empty folder; hidden files also count."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(
            f"{folder} is not a folder: choose a new or an empty one for --sort-into"
        ) from None
    if names:
        raise UsageError(
            f"{folder} is not empty (it holds {min(names)}): "
            "choose a new or an empty folder for --sort-into"
        )


def invalid_folder_error(name: str, problem: str) -> UsageError:
    return UsageError(
        f"the name of the class {name!r} {problem}: rename it in the model's config.json"
    )


def refuse_searched_folder(target: Path, folder: Path, images: Iterable[Path]) -> Iterator[Path]:
    """Yield the images found in or below `folder`, and refuse a `target` in a searched folder.

    Raises UsageError if `target` is or will be in a searched folder, including those that `folder`
    links to, because the next search would find the sorted images.
    """
    real_target = Path(os.path.realpath(target))
    forbidden = {identify_path(place) for place in (real_target, *real_target.parents)} - {None}
    checked: set[Path] = set()
    for image in images:
        for searched in image.parents:
            if searched in checked:
                break
            if identify_path(searched) in forbidden:
                raise UsageError(
                    f"{target} is inside {searched}, whose images are classified: "
                    "choose a folder for --sort-into outside of it"
                )
            checked.add(searched)
            if searched == folder:
                break
        yield image


def identify_path(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file or folder, which all its paths share; or None."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def number_file_name(name: str, number: int) -> str:
    """Number a file name: `a.jpg` for 1, `a-2.jpg` for 2; a stem that is too long is cut."""
    if number == 1:
        return name
    stem, suffix = os.path.splitext(name)
    while stem and len(os.fsencode(f"{stem}-{number}{suffix}")) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return f"{stem}-{number}{suffix}"


def copy_with_time(image: Path, path: Path) -> None:
    """Copy the content of a file and its modification time to a new path."""
    # not shutil.copy2: a full disk must not be reported as a fault of the image
    with open(image, "rb") as source, open(path, "xb") as copy:
        shutil.copyfileobj(source, copy, 2**20)
        status = os.fstat(source.fileno())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
