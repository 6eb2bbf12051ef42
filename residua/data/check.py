"""What is wrong with a folder of photographs, before a night is spent on it: every file is decoded once, nothing is changed."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residua.config.serialize import FORMAT_VERSION, Json
from residua.data.decode import decode_image, read_entry_bytes, silence_pillow_warnings
from residua.data.near_duplicates import (
    compute_difference_hash,
    find_near_duplicates,
    make_grey_thumbnail,
)
from residua.data.sources.image_folder import list_image_dataset
from residua.data.sources.listing import DataProblem, ImageEntry, ImageListing, escape_unprintable
from residua.data.threads import map_in_threads
from residua.data.thumbnails import encode_data_uri
from residua.errors import ImageError

FORMAT_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
}
MIN_CLASS_IMAGES = 10  # images to train on, below which a class is tiny
MIN_IMAGE_SIDE = 16  # pixels, below which a side is
CHECK_THUMBNAIL_HEIGHT = 96  # pixels
MAX_PROBLEM_THUMBNAILS = 240  # thumbnails of problems at most


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """What one decoded file is: its content's hashes, size, and histogram (3 x 256,)."""

    entry: ImageEntry
    sha256: str
    difference_hash: int  # perceptual, 64 bits
    grey_thumbnail: bytes  # 16 x 16 levels
    size: tuple[int, int]  # width, height
    histogram: tuple[int, ...]
    warnings: tuple[DataProblem, ...]  # on what is odd about it, though it can be used


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """A data set that was looked at."""

    listing: ImageListing
    images: tuple[CheckedImage, ...]
    problems: tuple[DataProblem, ...]

    @property
    def json_summary(self) -> dict[str, Json]:
        """The same in numbers and words, as `--json` prints it; channels in [0, 1]."""
        counts = Counter((one.entry.label, one.entry.split) for one in self.images)
        parts = sorted({part for _, part in counts})
        classes: dict[str, Json] = {
            name: {part or "images": counts[label, part] for part in parts}
            for label, name in enumerate(self.listing.classes)
        }
        mean, std = compute_channel_mean_std(self.images)
        widths, heights = [sorted(one.size[i] for one in self.images) for i in (0, 1)]
        return {
            "format": FORMAT_VERSION,
            "data": self.listing.location,
            "images": len(self.images),
            "classes": classes,
            "width": min_median_max(widths),
            "height": min_median_max(heights),
            "mean": list[Json](mean),
            "std": list[Json](std),
            "problems": [
                {"path": p.path, "kind": p.kind, "detail": p.detail} for p in self.problems
            ],
        }

    def usable_entries(self) -> Iterator[ImageEntry]:
        """The files to keep: decoded, in one class, once, in one part alone, and with a name that can be written down."""
        unusable_names = {
            p.path
            for p in self.problems
            if p.kind in ("duplicate", "near duplicate", "leakage", "two classes")
        }
        yield from (
            one.entry
            for one in self.images
            if one.entry.name not in unusable_names and is_valid_utf8(str(one.entry.path))
        )


def check_dataset(location: str | Path) -> DatasetCheck:
    """Decode every file of a folder or a table and say what is wrong; DataError where that is no data set at all."""
    listing = list_image_dataset(location)
    with silence_pillow_warnings():
        results = map_in_threads(check_image, listing.entries, "checking")
    images = tuple(one for one in results if isinstance(one, CheckedImage))
    problems = [
        *listing.problems,
        *(one for one in results if isinstance(one, DataProblem)),
        *(p for one in images for p in one.warnings),
        *find_class_problems(listing, images),
        *find_file_name_problems(listing),
        *find_duplicate_problems(listing, images),
    ]
    return DatasetCheck(listing, images, tuple(sorted(problems)))


def check_image(entry: ImageEntry) -> CheckedImage | DataProblem:
    """One file."""
    try:
        content = read_entry_bytes(entry)
        image = decode_image(content)
    except ImageError as error:
        return DataProblem(entry.name, error.kind, error.detail)
    return CheckedImage(
        entry,
        hashlib.sha256(content).hexdigest(),
        compute_difference_hash(image),
        make_grey_thumbnail(image),
        image.size,
        tuple(image.histogram()),
        tuple(find_image_warnings(entry, content, image)),
    )


def find_image_warnings(
    entry: ImageEntry, content: bytes, image: Image.Image
) -> Iterator[DataProblem]:
    """What is odd about a file that can be decoded."""
    actual_format, frames = "", 1
    with Image.open(BytesIO(content)) as file, suppress(Exception):  # later frames may be damaged
        actual_format = file.format or ""
        frames = getattr(file, "n_frames", 1)
    suffix = entry.path.suffix.lower()
    if entry.path.name and suffix not in FORMAT_SUFFIXES.get(actual_format, ()):
        yield DataProblem(
            entry.name,
            "wrong extension",
            f"is a {actual_format} file, though its name ends in {suffix or 'no extension'}",
        )
    if frames > 1 and actual_format != "MPO":
        yield DataProblem(entry.name, "film", f"has {frames} frames, of which the first is taken")
    if min(image.size) < MIN_IMAGE_SIDE:
        yield DataProblem(
            entry.name,
            "small image",
            f"has {image.width} x {image.height} pixels, which show little",
        )
    elif all(low == high for low, high in image.getextrema()):  # type: ignore[misc]
        yield DataProblem(entry.name, "one colour", "shows one colour alone")


def find_class_problems(
    listing: ImageListing, images: Iterable[CheckedImage]
) -> Iterator[DataProblem]:
    """Classes with few images to train on, and names that a person would take for one."""
    counts = Counter(one.entry.label for one in images if one.entry.split in ("train", ""))
    for label, name in enumerate(listing.classes):
        if (count := counts[label]) < MIN_CLASS_IMAGES:
            yield DataProblem(
                name,
                "tiny class",
                f"has {count} image{'s' * (count != 1)} to train on that can be decoded",
            )
    first_by_folded_name: dict[str, str] = {}
    for name in listing.classes:
        if other := first_by_folded_name.get(name.casefold()):
            yield DataProblem(
                name, "alike classes", f"differs from the class {other} in capitals alone"
            )
        first_by_folded_name.setdefault(name.casefold(), name)


def find_file_name_problems(listing: ImageListing) -> Iterator[DataProblem]:
    """Names that are no UTF-8 or hold control characters, which other programs stumble over."""
    for entry in listing.entries:
        file_name = entry.path.name
        if (
            not file_name.isprintable()
            or escape_unprintable(file_name).startswith("-")
            or file_name != file_name.strip()
        ):
            yield DataProblem(entry.name, "odd name", "has a name that other programs may not read")


def is_valid_utf8(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def find_duplicate_problems(
    listing: ImageListing, images: tuple[CheckedImage, ...]
) -> Iterator[DataProblem]:
    """Files of the same content, or that look the same: the later one of two is named, or the one to train on where parts share."""
    first_by_digest: dict[str, CheckedImage] = {}
    unique_images = []
    for image in sorted(
        images, key=lambda one: (one.entry.split in ("train", ""), one.entry.name)
    ):  # what is held out stays
        if first_image := first_by_digest.get(image.sha256):
            yield describe_duplicate(
                listing, image.entry, first_image.entry, "duplicate", "is the same file as"
            )
        else:
            first_by_digest[image.sha256] = image
            unique_images.append(image)
    for i, j in find_near_duplicates(
        [one.difference_hash for one in unique_images],
        [one.grey_thumbnail for one in unique_images],
    ):
        yield describe_duplicate(
            listing,
            unique_images[j].entry,
            unique_images[i].entry,
            "near duplicate",
            "looks the same as",
        )


def describe_duplicate(
    listing: ImageListing, entry: ImageEntry, original: ImageEntry, kind: str, relation: str
) -> DataProblem:
    if entry.label != original.label:
        original_class = f", of the class {listing.classes[original.label]}"
        return DataProblem(
            entry.name,
            "two classes" if kind == "duplicate" else kind,
            f"{relation} {original.name}{original_class}",
        )
    if entry.split != original.split:
        return DataProblem(
            entry.name,
            "leakage",
            f"{relation} {original.name}, which it is not to be trained or tested with",
        )
    return DataProblem(entry.name, kind, f"{relation} {original.name}")


def compute_channel_mean_std(images: Iterable[CheckedImage]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of red, green and blue over all pixels, in [0, 1]."""
    histogram: NDArray[np.float64] = np.zeros((3, 256))
    for one in images:
        histogram += np.asarray(one.histogram, np.float64).reshape(3, 256)
    levels, counts = np.arange(256) / 255, np.maximum(histogram.sum(1), 1)
    mean = histogram @ levels / counts
    std = np.sqrt(np.maximum(histogram @ levels**2 / counts - mean**2, 0))
    return [round(float(x), 4) for x in mean], [round(float(x), 4) for x in std]


def min_median_max(values: list[int]) -> list[Json]:
    """Smallest, median and largest."""
    return [values[0], round(median(values)), values[-1]] if values else []


def format_usable_csv(checked: DatasetCheck, csv_path: Path) -> str:
    """A table of path,label,split of what is usable, which `residua train` takes for a folder; `place` is where it will lie."""
    lines = ["path,label,split"]
    for entry in checked.usable_entries():
        path = os.path.relpath(entry.path, csv_path.resolve().parent)
        lines.append(
            ",".join(
                quote_csv_cell(cell)
                for cell in (path, checked.listing.classes[entry.label], entry.split)
            )
        )
    return "\n".join(lines) + "\n"


def quote_csv_cell(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n\r') else cell


def make_check_thumbnails(checked: DatasetCheck) -> dict[str, str]:
    """Small pictures, as data URIs, of decodable files with a problem and of a few of each class, by path."""
    problem_paths = {p.path for p in checked.problems[:MAX_PROBLEM_THUMBNAILS]}
    per_class = Counter[int]()
    chosen_entries = []
    for one in checked.images:
        per_class[one.entry.label] += 1
        if one.entry.name in problem_paths or per_class[one.entry.label] <= 4:
            chosen_entries.append(one.entry)
    with silence_pillow_warnings():
        return dict(
            zip(
                [entry.name for entry in chosen_entries],
                map_in_threads(make_entry_thumbnail, chosen_entries, "thumbnails"),
                strict=True,
            )
        )


def make_entry_thumbnail(entry: ImageEntry) -> str:
    image = decode_image(read_entry_bytes(entry))
    image.thumbnail((2 * CHECK_THUMBNAIL_HEIGHT, CHECK_THUMBNAIL_HEIGHT))
    return encode_data_uri(image, "JPEG")
