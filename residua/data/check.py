"""Validation of photos before training: every file is decoded once, and no file is changed."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from residua.config.serialize import FORMAT_VERSION, Json
from residua.data.checked_image import CheckedImage, compute_channel_mean_std, inspect_image
from residua.data.decode import decode_image, read_entry_bytes, suspend_pillow_limits
from residua.data.near_duplicates import find_near_duplicates
from residua.data.sources.listing import (
    DataProblem,
    ImageEntry,
    ImageListing,
    escape_unprintable,
    problems_to_json,
)
from residua.data.threads import map_in_threads
from residua.data.thumbnails import encode_data_uri
from residua.file_names import decode_file_name
from residua.spreadsheet_cells import escape_formula

MIN_CLASS_IMAGES = 10  # training images; a class with fewer is reported
CHECK_THUMBNAIL_HEIGHT = 96  # pixels
MAX_PROBLEM_THUMBNAILS = 240
EXAMPLES_PER_CLASS = 4  # thumbnails of a class, whether or not they have problems
MAX_EXAMPLE_THUMBNAILS = 2000  # of all classes together


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """The result of checking a data set: its listing, its decodable images, and all problems."""

    listing: ImageListing
    images: tuple[CheckedImage, ...]
    problems: tuple[DataProblem, ...]
    # positions of images that duplicate others, each with the position of its original
    originals: Mapping[int, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        images, problems = len(self.images), len(self.problems)
        return f"DatasetCheck({self.listing.location}: {images:,} images, {problems:,} problems)"

    @property
    def json_summary(self) -> dict[str, Json]:
        """The content of check.json; channel means and stds are of pixels in [0, 1]."""
        counts = Counter((image.entry.label, image.entry.split) for image in self.images)
        splits = sorted({split for _, split in counts})
        classes: dict[str, Json] = {
            name: {split or "images": counts[label, split] for split in splits}
            for label, name in enumerate(self.listing.classes)
        }
        mean, std = compute_channel_mean_std(self.images)
        widths, heights = [sorted(image.size[i] for image in self.images) for i in (0, 1)]
        return {
            "format": FORMAT_VERSION,
            "data": self.listing.location,
            "images": len(self.images),
            "classes": classes,
            "width": min_median_max(widths),
            "height": min_median_max(heights),
            "mean": list[Json](mean) if self.images else [],
            "std": list[Json](std) if self.images else [],
            "problems": problems_to_json(self.problems),
            "duplicates": self.list_duplicates(),
            "sizes": count_sizes(image.size for image in self.images),
        }

    @property
    def class_by_image(self) -> dict[str, str]:
        """The name of the class of each decodable image, by the image's name."""
        classes = self.listing.classes
        return {image.entry.name: classes[image.entry.label] for image in self.images}

    def list_duplicates(self) -> list[Json]:
        """List the images that duplicate others, each with the name of its original."""
        names = [image.entry.name for image in self.images]
        return [
            {"path": names[copy], "original": names[original]}
            for copy, original in sorted(self.originals.items(), key=lambda pair: names[pair[0]])
        ]

    def iterate_usable_entries(self) -> Iterator[ImageEntry]:
        """Yield the entries to train and test on: decodable, no duplicates, with UTF-8 paths."""
        for position, image in enumerate(self.images):
            if position not in self.originals and is_valid_utf8(decode_file_name(image.entry.path)):
                yield image.entry


def check_dataset(listing: ImageListing) -> DatasetCheck:
    """Decode every photo of a listing and report all problems."""

    def check_entry(entry: ImageEntry) -> CheckedImage | DataProblem:
        return inspect_image(entry, listing.max_pixels, listing.white_level)

    with suspend_pillow_limits():
        results = map_in_threads(check_entry, listing.entries, "checking")
    images = tuple(result for result in results if isinstance(result, CheckedImage))
    duplicates = find_duplicates(images)
    problems = [
        *listing.problems,
        *(result for result in results if isinstance(result, DataProblem)),
        *(warning for image in images for warning in image.warnings),
        *find_class_problems(listing, images),
        *find_unportable_file_names(listing),
        *(
            make_duplicate_problem(
                listing,
                images[copy].entry,
                images[original].entry,
                has_same_bytes=images[copy].sha256 == images[original].sha256,
            )
            for copy, original in duplicates.items()
        ),
    ]
    return DatasetCheck(listing, images, tuple(sorted(problems)), duplicates)


def find_class_problems(
    listing: ImageListing, images: Iterable[CheckedImage]
) -> Iterator[DataProblem]:
    """Report classes with few training images, and classes whose names differ only in case."""
    counts = Counter(image.entry.label for image in images if image.entry.split in ("train", ""))
    for label, name in enumerate(listing.classes):
        if (count := counts[label]) < MIN_CLASS_IMAGES:
            detail = f"has only {count} usable image{'s' * (count != 1)} to train on"
            yield DataProblem(name, "tiny class", detail)
    first_by_folded_name: dict[str, str] = {}
    for name in listing.classes:
        if other := first_by_folded_name.get(name.casefold()):
            detail = f"differs from the class {other} only in upper and lower case"
            yield DataProblem(name, "alike classes", detail)
        first_by_folded_name.setdefault(name.casefold(), name)


def find_unportable_file_names(listing: ImageListing) -> Iterator[DataProblem]:
    """Report file names that other programs may be unable to read.

    Such names contain control characters or bytes that are not UTF-8, begin with `-`, or begin or
    end with a space.
    """
    for entry in listing.entries:
        file_name = decode_file_name(entry.path.name)
        if (
            not file_name.isprintable()
            or escape_unprintable(file_name).startswith("-")
            or file_name != file_name.strip()
        ):
            yield DataProblem(entry.name, "odd name", "has a name that other programs may not read")


def is_valid_utf8(name: str) -> bool:
    """Return whether a file name is valid UTF-8: Python turns all other bytes into surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def find_duplicates(images: tuple[CheckedImage, ...]) -> dict[int, int]:
    """Find images that have the same bytes as another image, or look the same.

    Returns the position in `images` of each such image, with that of its original.  If one image of
    a pair is held out and the other is for training, the training image is the duplicate, so that
    the held-out data stay the same.  Otherwise it is the image whose name sorts later.
    """
    first_by_digest: dict[str, int] = {}
    unique: list[int] = []
    originals: dict[int, int] = {}
    held_out_first = sorted(
        range(len(images)),
        key=lambda i: (images[i].entry.split in ("train", ""), images[i].entry.name),
    )
    for i in held_out_first:
        first = first_by_digest.setdefault(images[i].sha256, i)
        if first == i:
            unique.append(i)
        else:
            originals[i] = first
    pairs = find_near_duplicates(
        [images[i].difference_hash for i in unique], [images[i].grey_thumbnail for i in unique]
    )
    return originals | {unique[copy]: unique[original] for original, copy in pairs}


def make_duplicate_problem(
    listing: ImageListing, entry: ImageEntry, original: ImageEntry, *, has_same_bytes: bool
) -> DataProblem:
    """Make the problem that `entry` duplicates `original`, or looks the same as it.

    The problem's kind is "duplicate" or "near duplicate", with two exceptions: it is "leakage" if
    only the splits differ, and "two classes" if the bytes are the same but the classes differ.
    """
    kind = "duplicate" if has_same_bytes else "near duplicate"
    detail = f"{'is the same file as' if has_same_bytes else 'looks the same as'} {original.name}"
    if entry.label != original.label:
        kind = "two classes" if has_same_bytes else kind
        detail += f", of the class {listing.classes[original.label]}"
    elif entry.split != original.split:
        kind = "leakage"
        detail += f", which is in the {original.split or 'undecided'} split"
    return DataProblem(entry.name, kind, detail)


def count_sizes(sizes: Iterable[tuple[int, int]]) -> dict[str, Json]:
    """Count the images of each (width, height) in pixels.

    `shorter_sides` has [from, up to but not including, images] for each doubling of the shorter
    side, and `shapes` the number of portrait, square and landscape images.
    """
    counts = Counter(sizes)
    octaves, shapes = Counter[int](), Counter[str]()
    for (width, height), count in counts.items():
        octaves[min(width, height).bit_length()] += count
        shape = "square" if width == height else "landscape" if width > height else "portrait"
        shapes[shape] += count
    bins = range(min(octaves), max(octaves) + 1) if octaves else range(0)
    return {
        "distinct": len(counts),
        "shorter_sides": [[2 ** (i - 1), 2**i, octaves[i]] for i in bins],
        "shapes": {shape: shapes[shape] for shape in ("portrait", "square", "landscape")},
    }


def min_median_max(values: list[int]) -> list[Json]:
    """Return the smallest, median and largest of sorted values; [] if there are no values."""
    return [values[0], round(median(values)), values[-1]] if values else []


def format_usable_csv(checked: DatasetCheck, csv_path: Path) -> str:
    """Format a CSV table of the usable images, on which `residua train` can train.

    The columns are path, label and split and, if the images have groups, group.  The table will be
    stored as `csv_path`, and paths are relative to its folder.
    """
    has_groups = any(entry.group for entry in checked.listing.entries)
    lines = ["path,label,split" + ",group" * has_groups]
    for entry in checked.iterate_usable_entries():
        path = decode_file_name(os.path.relpath(entry.path, csv_path.resolve().parent))
        cells = [path, checked.listing.classes[entry.label], entry.split]
        cells += [entry.group] * has_groups
        lines.append(",".join(make_csv_cell_safe(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def make_csv_cell_safe(cell: str) -> str:
    cell = escape_formula(cell)
    needs_quotes = set(cell) & set(',"\n\r') or cell != cell.strip()
    return '"' + cell.replace('"', '""') + '"' if needs_quotes else cell


def make_check_thumbnails(checked: DatasetCheck) -> dict[str, str]:
    """Make thumbnails of images with problems, of originals and of the first images of each class.

    Returns data URIs by image name.  Images that cannot be decoded have no thumbnail.  Only
    the first `MAX_PROBLEM_THUMBNAILS` problems, duplicates and their originals first, and
    `EXAMPLES_PER_CLASS` images of a class have one, and at most `MAX_EXAMPLE_THUMBNAILS` images
    without problems.
    """
    names = [image.entry.name for image in checked.images]
    originals = {names[copy]: names[original] for copy, original in checked.originals.items()}
    paths = sorted(
        {p.path for p in checked.problems}, key=lambda path: (path not in originals, path)
    )
    problem_paths = set(paths[:MAX_PROBLEM_THUMBNAILS])
    problem_paths |= {originals[path] for path in problem_paths if path in originals}
    count_by_class = Counter[int]()
    chosen_entries, example_count = [], 0
    for image in checked.images:
        count_by_class[image.entry.label] += 1
        is_example = (
            count_by_class[image.entry.label] <= EXAMPLES_PER_CLASS
            and example_count < MAX_EXAMPLE_THUMBNAILS
        )
        example_count += is_example
        if is_example or image.entry.name in problem_paths:
            chosen_entries.append(image.entry)

    def make_entry_thumbnail(entry: ImageEntry) -> str:
        content = read_entry_bytes(entry)
        image = decode_image(content, checked.listing.max_pixels, checked.listing.white_level)
        image.thumbnail((2 * CHECK_THUMBNAIL_HEIGHT, CHECK_THUMBNAIL_HEIGHT))
        return encode_data_uri(image, "JPEG")

    with suspend_pillow_limits():
        thumbnails = map_in_threads(make_entry_thumbnail, chosen_entries, "thumbnails")
    return {entry.name: uri for entry, uri in zip(chosen_entries, thumbnails, strict=True)}
