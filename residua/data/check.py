"""Validation of photos before training: every file is decoded once, and nothing is changed."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from residua.config.serialize import FORMAT_VERSION, Json
from residua.data.checked_image import CheckedImage, check_image, compute_channel_mean_std
from residua.data.decode import decode_image, read_entry_bytes, silence_pillow_warnings
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

MIN_CLASS_IMAGES = 10  # training images; a class with fewer is reported
CHECK_THUMBNAIL_HEIGHT = 96  # pixels
MAX_PROBLEM_THUMBNAILS = 240
EXAMPLES_PER_CLASS = 4  # thumbnails of a class, whether or not they have problems


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """The result of checking a data set: its listing, the decodable images, and all problems."""

    listing: ImageListing
    images: tuple[CheckedImage, ...]
    problems: tuple[DataProblem, ...]

    @property
    def json_summary(self) -> dict[str, Json]:
        """The content of check.json; mean and std of the channels are in [0, 1]."""
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
            "mean": list[Json](mean),
            "std": list[Json](std),
            "problems": problems_to_json(self.problems),
        }

    def usable_entries(self) -> Iterator[ImageEntry]:
        """The entries to train and test on: decodable, without duplicates, and with UTF-8 paths."""
        unusable_names = {
            problem.path
            for problem in self.problems
            if problem.kind in ("duplicate", "near duplicate", "leakage", "two classes")
        }
        for image in self.images:
            entry = image.entry
            if entry.name not in unusable_names and is_valid_utf8(str(entry.path)):
                yield entry


def check_dataset(listing: ImageListing) -> DatasetCheck:
    """Decode every photo of a listing and report all problems."""
    with silence_pillow_warnings():
        results = map_in_threads(check_image, listing.entries, "checking")
    images = tuple(result for result in results if isinstance(result, CheckedImage))
    problems = [
        *listing.problems,
        *(result for result in results if isinstance(result, DataProblem)),
        *(warning for image in images for warning in image.warnings),
        *find_class_problems(listing, images),
        *find_file_name_problems(listing),
        *find_duplicate_problems(listing, images),
    ]
    return DatasetCheck(listing, images, tuple(sorted(problems)))


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


def find_file_name_problems(listing: ImageListing) -> Iterator[DataProblem]:
    """Report file names that other programs may be unable to read.

    Such names contain control characters or bytes that are not UTF-8, begin with `-`, or begin or
    end with a space.
    """
    for entry in listing.entries:
        file_name = entry.path.name
        if (
            not file_name.isprintable()
            or escape_unprintable(file_name).startswith("-")
            or file_name != file_name.strip()
        ):
            yield DataProblem(entry.name, "odd name", "has a name that other programs may not read")


def is_valid_utf8(name: str) -> bool:
    """Whether a name from the file system was UTF-8; Python replaces other bytes by surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def find_duplicate_problems(
    listing: ImageListing, images: tuple[CheckedImage, ...]
) -> Iterator[DataProblem]:
    """Report each image that has the same bytes as another image, or looks the same.

    Of two such images, the training image is reported if the other one is held out, so that
    held-out data do not change.  Otherwise the later one is reported.
    """
    first_by_digest: dict[str, CheckedImage] = {}
    unique_images = []
    held_out_first = sorted(
        images, key=lambda image: (image.entry.split in ("train", ""), image.entry.name)
    )
    for image in held_out_first:
        if first_image := first_by_digest.get(image.sha256):
            yield describe_duplicate(
                listing, image.entry, first_image.entry, "duplicate", "is the same file as"
            )
        else:
            first_by_digest[image.sha256] = image
            unique_images.append(image)
    pairs = find_near_duplicates(
        [image.difference_hash for image in unique_images],
        [image.grey_thumbnail for image in unique_images],
    )
    for i, j in pairs:
        original, entry = unique_images[i].entry, unique_images[j].entry
        yield describe_duplicate(listing, entry, original, "near duplicate", "looks the same as")


def describe_duplicate(
    listing: ImageListing, entry: ImageEntry, original: ImageEntry, kind: str, relation: str
) -> DataProblem:
    """Describe the problem that `entry` duplicates `original`.

    The problem's kind is `kind` if class and split agree, and "leakage" if only the splits differ.
    If the classes differ, it is "two classes" for images with the same bytes, and `kind` for images
    that only look the same.
    """
    detail = f"{relation} {original.name}"
    if entry.label != original.label:
        kind = "two classes" if kind == "duplicate" else kind
        detail += f", of the class {listing.classes[original.label]}"
    elif entry.split != original.split:
        kind = "leakage"
        detail += f", which is in the {original.split or 'undecided'} split"
    return DataProblem(entry.name, kind, detail)


def min_median_max(values: list[int]) -> list[Json]:
    """Smallest, median and largest of sorted values; an empty result if there are no values."""
    return [values[0], round(median(values)), values[-1]] if values else []


def format_usable_csv(checked: DatasetCheck, csv_path: Path) -> str:
    """A CSV table path,label,split of the usable images, for training with `residua train`.

    Paths are relative to the folder of `csv_path`, the file that will hold the table.
    """
    lines = ["path,label,split"]
    for entry in checked.usable_entries():
        path = os.path.relpath(entry.path, csv_path.resolve().parent)
        cells = (path, checked.listing.classes[entry.label], entry.split)
        lines.append(",".join(quote_csv_cell(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def quote_csv_cell(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n\r') else cell


def make_check_thumbnails(checked: DatasetCheck) -> dict[str, str]:
    """Make thumbnails of the images with problems and of the first image of each class.

    Returns data URIs by image name.  Images that cannot be decoded have no thumbnail.
    """
    problem_paths = {problem.path for problem in checked.problems[:MAX_PROBLEM_THUMBNAILS]}
    count_by_class = Counter[int]()
    chosen_entries = []
    for image in checked.images:
        count_by_class[image.entry.label] += 1
        is_example = count_by_class[image.entry.label] <= EXAMPLES_PER_CLASS
        if is_example or image.entry.name in problem_paths:
            chosen_entries.append(image.entry)
    with silence_pillow_warnings():
        thumbnails = map_in_threads(make_entry_thumbnail, chosen_entries, "thumbnails")
    return {entry.name: uri for entry, uri in zip(chosen_entries, thumbnails, strict=True)}


def make_entry_thumbnail(entry: ImageEntry) -> str:
    image = decode_image(read_entry_bytes(entry))
    image.thumbnail((2 * CHECK_THUMBNAIL_HEIGHT, CHECK_THUMBNAIL_HEIGHT))
    return encode_data_uri(image, "JPEG")
