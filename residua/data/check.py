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

from residua.data.alike import alike, grey, hashed
from residua.data.folder import listed
from residua.data.image import content_of, decode, quiet_pillow
from residua.data.listing import Entry, Listing, Problem, shown
from residua.data.threads import mapped
from residua.data.thumbnail import uri
from residua.errors import ImageError
from residua.spec.text import FORMAT, Json

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"), "GIF": (".gif",), "MPO": (".jpg", ".jpeg", ".mpo"),
}  # fmt: skip
FEW = 10  # images to train on, below which a class is tiny
SMALL = 16  # pixels, below which a side is
THUMBNAIL = 96  # pixels
SHOWN = 240  # thumbnails of problems at most


@dataclass(frozen=True, slots=True)
class Seen:
    """What one decoded file is: its content's hashes, size, and histogram (3 x 256,)."""

    entry: Entry
    digest: str
    hash: int  # perceptual, 64 bits
    grey: bytes  # 16 x 16 levels
    size: tuple[int, int]  # width, height
    histogram: tuple[int, ...]
    remarks: tuple[Problem, ...]  # on what is odd about it, though it can be used


@dataclass(frozen=True, slots=True)
class Checked:
    """A data set that was looked at."""

    listing: Listing
    seen: tuple[Seen, ...]
    problems: tuple[Problem, ...]

    @property
    def facts(self) -> dict[str, Json]:
        """The same in numbers and words, as `--json` prints it; channels in [0, 1]."""
        counts = Counter((one.entry.label, one.entry.part) for one in self.seen)
        parts = sorted({part for _, part in counts})
        classes: dict[str, Json] = {
            name: {part or "images": counts[label, part] for part in parts} for label, name in enumerate(self.listing.classes)
        }
        mean, std = channels(self.seen)
        widths, heights = [sorted(one.size[i] for one in self.seen) for i in (0, 1)]
        return {
            "format": FORMAT, "data": self.listing.place, "images": len(self.seen), "classes": classes,
            "width": spread(widths), "height": spread(heights), "mean": list[Json](mean), "std": list[Json](std),
            "problems": [{"path": p.path, "kind": p.kind, "detail": p.detail} for p in self.problems],
        }  # fmt: skip

    def usable(self) -> Iterator[Entry]:
        """The files to keep: decoded, in one class, once, in one part alone, and with a name that can be written down."""
        bad = {p.path for p in self.problems if p.kind in ("duplicate", "near duplicate", "leakage", "two classes")}
        yield from (one.entry for one in self.seen if one.entry.name not in bad and is_utf8(str(one.entry.path)))


def check(place: str | Path) -> Checked:
    """Decode every file of a folder or a table and say what is wrong; DataError where that is no data set at all."""
    listing = listed(place)
    with quiet_pillow():
        found = mapped(look, listing.entries, "checking")
    seen = tuple(one for one in found if isinstance(one, Seen))
    problems = [
        *listing.problems, *(one for one in found if isinstance(one, Problem)), *(p for one in seen for p in one.remarks),
        *of_classes(listing, seen), *of_names(listing), *copies(listing, seen),
    ]  # fmt: skip
    return Checked(listing, seen, tuple(sorted(problems)))


def look(entry: Entry) -> Seen | Problem:
    """One file."""
    try:
        content = content_of(entry)
        image = decode(content)
    except ImageError as error:
        return Problem(entry.name, error.kind, error.detail)
    return Seen(
        entry, hashlib.sha256(content).hexdigest(), hashed(image), grey(image), image.size, tuple(image.histogram()),
        tuple(remarks(entry, content, image)),
    )  # fmt: skip


def remarks(entry: Entry, content: bytes, image: Image.Image) -> Iterator[Problem]:
    """What is odd about a file that can be decoded."""
    kind, frames = "", 1
    with Image.open(BytesIO(content)) as file, suppress(Exception):  # later frames may be damaged
        kind = file.format or ""
        frames = getattr(file, "n_frames", 1)
    suffix = entry.path.suffix.lower()
    if entry.path.name and suffix not in SUFFIXES.get(kind, ()):
        yield Problem(entry.name, "wrong extension", f"is a {kind} file, though its name ends in {suffix or 'no extension'}")
    if frames > 1 and kind != "MPO":
        yield Problem(entry.name, "film", f"has {frames} frames, of which the first is taken")
    if min(image.size) < SMALL:
        yield Problem(entry.name, "small image", f"has {image.width} x {image.height} pixels, which show little")
    elif all(low == high for low, high in image.getextrema()):  # type: ignore[misc]
        yield Problem(entry.name, "one colour", "shows one colour alone")


def of_classes(listing: Listing, seen: Iterable[Seen]) -> Iterator[Problem]:
    """Classes with few images to train on, and names that a person would take for one."""
    counts = Counter(one.entry.label for one in seen if one.entry.part in ("train", ""))
    for label, name in enumerate(listing.classes):
        if (count := counts[label]) < FEW:
            yield Problem(name, "tiny class", f"has {count} image{'s' * (count != 1)} to train on that can be decoded")
    first: dict[str, str] = {}
    for name in listing.classes:
        if other := first.get(name.casefold()):
            yield Problem(name, "alike classes", f"differs from the class {other} in capitals alone")
        first.setdefault(name.casefold(), name)


def of_names(listing: Listing) -> Iterator[Problem]:
    """Names that are no UTF-8 or hold control characters, which other programs stumble over."""
    for entry in listing.entries:
        raw = entry.path.name
        if not raw.isprintable() or shown(raw).startswith("-") or raw != raw.strip():
            yield Problem(entry.name, "odd name", "has a name that other programs may not read")


def is_utf8(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def copies(listing: Listing, seen: tuple[Seen, ...]) -> Iterator[Problem]:
    """Files of the same content, or that look the same: the later one of two is named, or the one to train on where parts share."""
    first: dict[str, Seen] = {}
    unique = []
    for one in sorted(seen, key=lambda one: (one.entry.part in ("train", ""), one.entry.name)):  # what is held out stays
        if other := first.get(one.digest):
            yield pair(listing, one.entry, other.entry, "duplicate", "is the same file as")
        else:
            first[one.digest] = one
            unique.append(one)
    for i, j in alike([one.hash for one in unique], [one.grey for one in unique]):
        yield pair(listing, unique[j].entry, unique[i].entry, "near duplicate", "looks the same as")


def pair(listing: Listing, one: Entry, other: Entry, kind: str, words: str) -> Problem:
    if one.label != other.label:
        there = f", of the class {listing.classes[other.label]}"
        return Problem(one.name, "two classes" if kind == "duplicate" else kind, f"{words} {other.name}{there}")
    if one.part != other.part:
        return Problem(one.name, "leakage", f"{words} {other.name}, which it is not to be trained or tested with")
    return Problem(one.name, kind, f"{words} {other.name}")


def channels(seen: Iterable[Seen]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of red, green and blue over all pixels, in [0, 1]."""
    total: NDArray[np.float64] = np.zeros((3, 256))
    for one in seen:
        total += np.asarray(one.histogram, np.float64).reshape(3, 256)
    levels, counts = np.arange(256) / 255, np.maximum(total.sum(1), 1)
    mean = total @ levels / counts
    std = np.sqrt(np.maximum(total @ levels**2 / counts - mean**2, 0))
    return [round(float(x), 4) for x in mean], [round(float(x), 4) for x in std]


def spread(values: list[int]) -> list[Json]:
    """Smallest, median and largest."""
    return [values[0], round(median(values)), values[-1]] if values else []


def table_of(checked: Checked, place: Path) -> str:
    """A table of path,label,split of what is usable, which `residua train` takes for a folder; `place` is where it will lie."""
    lines = ["path,label,split"]
    for entry in checked.usable():
        path = os.path.relpath(entry.path, place.resolve().parent)
        lines.append(",".join(quoted(cell) for cell in (path, checked.listing.classes[entry.label], entry.part)))
    return "\n".join(lines) + "\n"


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n\r') else cell


def thumbnails(checked: Checked) -> dict[str, str]:
    """Small pictures, as data URIs, of decodable files with a problem and of a few of each class, by path."""
    wanted = {p.path for p in checked.problems[:SHOWN]}
    per_class = Counter[int]()
    chosen = []
    for one in checked.seen:
        per_class[one.entry.label] += 1
        if one.entry.name in wanted or per_class[one.entry.label] <= 4:
            chosen.append(one.entry)
    with quiet_pillow():
        return dict(zip([entry.name for entry in chosen], mapped(small, chosen, "thumbnails"), strict=True))


def small(entry: Entry) -> str:
    image = decode(content_of(entry))
    image.thumbnail((2 * THUMBNAIL, THUMBNAIL))
    return uri(image, "JPEG")
