"""WebDataset shards: tar archives of samples, each KEY.jpg with its label in KEY.cls or KEY.json.

The headers of an archive are read once, and what they say is kept.  Then each image is read at its
offset like a file, in any order and from many threads.  The webdataset library is not used, because
it reads members only in order, and decodes all that it finds, including pickles.  This module
neither unpickles nor runs anything in a shard.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from residua.data.image_formats import IMAGE_SUFFIXES
from residua.data.sources.listing import (
    HELD_OUT_WORDS,
    DataProblem,
    ImageEntry,
    ImageListing,
    OptionalSplit,
    clean_cell,
    describe_split_names,
    ensure_test_split,
    escape_unprintable,
    index_class_names,
    is_named_held_out,
    join_first_names,
    list_visible_children,
    parse_split_name,
    printable_relative_path,
    sort_class_names,
    source_of_splits,
)
from residua.data.sources.shard_index import load_or_list_samples
from residua.data.sources.shard_samples import ShardSample
from residua.data.threads import map_in_threads
from residua.errors import DataError

SHARD_SUFFIX = ".tar"
CLASS_LIST_FILES = ("classes.txt", "classnames.txt")  # one class per line, for labels as numbers
# A class may be called so, but hardly a shard.
HELD_OUT_SHARD_WORDS = HELD_OUT_WORDS | {"private", "blind", "hidden", "probe", "final"}
# Archives that must be unpacked first; `.tar.gz` ends in `.gz`.
PACKED_SUFFIXES = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zip", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class ShardContents:
    """A shard's name, size, modification time, samples in the shard's order, and problems."""

    name: str  # printable, relative to the data set
    size_and_mtime: tuple[int, int]
    samples: tuple[ShardSample, ...]
    problems: tuple[DataProblem, ...]


def find_shards(location: Path) -> list[Path]:
    """Find the shards at a location: one file, or those in a folder and in its subfolders.

    Returns [] if some subfolders are not shard folders.  They count as class folders, beside which
    archives are ignored.  Raises DataError if the folder has no subfolders but has archives that
    must be unpacked first.
    """
    if location.is_file():
        return [location] if location.suffix.lower() == SHARD_SUFFIX else []
    children = list_visible_children(location)
    folders = [child for child in children if child.is_dir()]
    packed = [child for child in children if is_packed_archive(child) and child.is_file()]
    if not all(map(may_be_shard_folder, folders)):
        return []
    shards = [
        path
        for child in children
        for path in (list_visible_children(child) if child.is_dir() else [child])
        if path.suffix.lower() == SHARD_SUFFIX and path.is_file()
    ]
    if packed and not shards and not folders:
        raise DataError(explain_packed_archives(location, packed))
    return shards


def may_be_shard_folder(folder: Path) -> bool:
    """Return whether a folder holds no folders or images, and holds shards or has a split's name.

    An empty folder also counts as a shard folder.
    """
    children = list_visible_children(folder)
    if any(path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES for path in children):
        return False
    has_shards = any(path.suffix.lower() == SHARD_SUFFIX for path in children)
    return has_shards or not children or bool(parse_split_name(folder.name))


def is_packed_archive(path: Path) -> bool:
    """Return whether a file's name is that of an archive that must be unpacked to be read."""
    return path.suffix.lower() in PACKED_SUFFIXES


def explain_packed_archives(location: Path, archives: Iterable[Path]) -> str:
    """Say that archives must be unpacked, and how."""
    names = join_first_names(escape_unprintable(path.name) for path in archives)
    held = f"{location} holds {names}, which" if location.is_dir() else str(location)
    return (
        f"{held} must be unpacked first: unpack shards of samples to .tar files (gunzip, zstd -d), "
        "and archives of images to a folder with one subfolder per class"
    )


def list_webdataset(location: Path, shards: list[Path]) -> ImageListing:
    """List the images of shards; the names of shards and folders determine the splits.

    Raises DataError if no image has a label, or if only some of the shards state a split.
    """
    root = location if location.is_dir() else location.parent
    listed_classes = read_class_list(root)
    contents = map_in_threads(lambda shard: read_shard_contents(shard, root), shards, "listing")
    return make_shard_listing(
        str(location), contents, listed_classes, find_files_beside_shards(location)
    )


def make_shard_listing(
    location: str,
    contents: Sequence[ShardContents],
    listed_classes: tuple[str, ...],
    more_problems: Sequence[DataProblem] = (),
) -> ImageListing:
    """Make the listing of shards; `listed_classes` are those of a list beside them, or ().

    Raises DataError if no image has a label, or if only some of the shards state a split.
    """
    problems = [problem for shard in contents for problem in shard.problems]
    problems += more_problems
    classes = listed_classes or sort_class_names(
        escape_unprintable(sample.label_text) for shard in contents for sample in shard.samples
    )
    label_by_name = index_class_names(classes)
    if listed_classes:  # a label may then be the number of a line, too
        label_by_name = index_class_names(map(str, range(len(listed_classes)))) | label_by_name
    split_by_shard = map_shards_to_splits(location, contents)
    entries = []
    for shard in contents:
        for sample in shard.samples:
            name = f"{shard.name}/{escape_unprintable(sample.name)}"
            class_name = escape_unprintable(sample.label_text)
            if (label := label_by_name.get(class_name)) is None:
                detail = f"is of the class {class_name}, which is not in {CLASS_LIST_FILES[0]}"
                problems.append(DataProblem(name, "no class", detail))
                continue
            path = f"{location}/{shard.name}/{PurePosixPath(sample.name).name}"
            split = split_by_shard[shard.name]
            entries.append(
                ImageEntry(path, name, label, split, shard.size_and_mtime, sample.member)
            )
    if not entries:
        first = f": {problems[0].path} {problems[0].detail}" if problems else ""
        raise DataError(
            f"{location} holds shards, but no image with a class: "
            f"store each sample as KEY.jpg next to KEY.cls{first}"
        )
    entries_with_test = ensure_test_split(entries)
    return ImageListing(
        location,
        classes,
        entries_with_test,
        tuple(problems),
        source_of_splits(entries_with_test, "shards"),
    )


def map_shards_to_splits(
    location: str, contents: Iterable[ShardContents]
) -> dict[str, OptionalSplit]:
    """Map each shard to its split, by its name; to "" if no name states a split.

    Raises DataError if the names of some shards state a split, or say that they are held out, and
    those of others do not.
    """
    split_by_shard = {shard.name: parse_shard_split(shard.name) for shard in contents}
    unknown = [name for name, split in split_by_shard.items() if not split]
    if unknown and len(unknown) < len(split_by_shard):
        image_count = sum(
            len(shard.samples) for shard in contents if not split_by_shard[shard.name]
        )
        known = sorted(set(filter(None, split_by_shard.values())))
        raise DataError(
            f"{location} has shards of the split {' and '.join(known)}, but other shards "
            f"({join_first_names(unknown)}, {image_count:,} images) have no split in their names: "
            f"move them elsewhere, or name them after a split, {describe_split_names()}"
        )
    held_out = [name for name in unknown if is_named_held_out(name, HELD_OUT_SHARD_WORDS)]
    if held_out and len(held_out) < len(unknown):
        others = join_first_names(name for name in unknown if name not in held_out)
        raise DataError(
            f"{location} has shards that are named like a held-out split "
            f"({join_first_names(held_out)}) beside {others}: name each shard after its split, "
            f"{describe_split_names()}, or rename the former if their images are to be trained on"
        )
    return split_by_shard


def parse_shard_split(shard_name: str) -> OptionalSplit:
    """Return the split that a word in the shard's file name or in its folder's name means, or "".

    The file name decides if both contain such a word.
    """
    pieces = shard_name.removesuffix(SHARD_SUFFIX).split("/")
    return next(filter(None, map(parse_split_name, reversed(pieces))), "")


def find_files_beside_shards(location: Path) -> list[DataProblem]:
    """Return a problem for the images and packed archives beside shards, which are left out."""
    if location.is_file():
        return []
    left_out = [
        path
        for path in list_visible_children(location)
        if path.is_file() and (is_packed_archive(path) or path.suffix.lower() in IMAGE_SUFFIXES)
    ]
    kinds = Counter(path.suffix.lower() for path in left_out)
    return [
        DataProblem(
            f"*{suffix}",
            "left out",
            f"beside the shards are no shards, and are left out: {count:,} files",
            count,
        )
        for suffix, count in kinds.items()
    ]


def read_class_list(root: Path) -> tuple[str, ...]:
    """Read the class names, one per line, from classes.txt or classnames.txt next to the shards.

    Returns () if neither file exists.  Raises DataError for an unreadable file, an empty line or a
    repeated name.
    """
    path = next((root / name for name in CLASS_LIST_FILES if (root / name).is_file()), None)
    if path is None:
        return ()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return parse_class_list(content, str(path))


def parse_class_list(content: bytes, source: str) -> tuple[str, ...]:
    """Parse the content of a list of classes, of which `source` is the path or the address."""
    try:
        lines = content.decode("utf-8-sig").rstrip().splitlines()
    except ValueError as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    classes: dict[str, None] = {}  # a set that keeps its order
    for number, line in enumerate(lines, 1):
        name = escape_unprintable(clean_cell(line))
        if not name or name in classes:
            reason = f"repeats {name}" if name else "is empty"
            raise DataError(
                f"line {number} of {source} {reason}: "
                "put one class name on each line, without repeats"
            )
        classes[name] = None
    return tuple(classes)


def read_shard_contents(shard: Path, root: Path) -> ShardContents:
    """Read the contents of a shard, or take those that are kept if the shard has not changed."""
    file_stat, shard_name = shard.stat(), printable_relative_path(root, shard)
    size_and_mtime = file_stat.st_size, file_stat.st_mtime_ns
    samples, member_problems = load_or_list_samples(shard, size_and_mtime)
    problems = tuple(
        replace(problem, path=f"{shard_name}/{problem.path}" if problem.path else shard_name)
        for problem in member_problems
    )
    return ShardContents(shard_name, size_and_mtime, samples, problems)
