"""A folder's photographs, decoded once into images of one size in memory, and kept in the cache for the next time.

Threads decode, for Pillow lets go of Python's lock; each writes its image to its place, so that no more images than threads are
ever there at their full size.  What cannot be decoded is left out and named.
"""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from residua.data.fetch import cache
from residua.data.folder import DEV, TEST, Entry, Listing, Part, Problem, tally
from residua.data.image import decode, prepared, quiet_pillow
from residua.errors import DataError, ImageError
from residua.files import written_aside
from residua.spec.model import View
from residua.spec.text import Json, to_json

VERSION = 2  # of what a cached file holds
PARTS: tuple[Part, ...] = ("train", "dev", "test")
LONG = 200  # files from which on a bar is shown

X = TypeVar("X")
Y = TypeVar("Y")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images (n, channels, height, width) uint8 of every file that could be decoded and labels (n,), part after part."""

    pixels: Tensor
    labels: Tensor
    counts: Tensor  # of each of PARTS
    names: tuple[str, ...]  # of the files
    problems: tuple[Problem, ...]

    def where(self, name: Part) -> slice:
        """The place of one part."""
        i = PARTS.index(name)
        end = int(self.counts[: i + 1].sum())
        return slice(end - int(self.counts[i]), end)

    def part(self, name: Part) -> tuple[Tensor, Tensor]:
        """Images and labels of one part, a view."""
        return self.pixels[self.where(name)], self.labels[self.where(name)]


@lru_cache(maxsize=1)
def gathered(listing: Listing, view: View) -> Gallery:
    """All images of a listing as `view` says, from the cache where it holds them.

    Raises DataError where a part is left without images.
    """
    digests = mapped(digest_of, listing.entries, "reading")
    where = cache() / "images" / f"{key(listing, digests, view)}.safetensors"
    held = loaded(where)
    if held is None:
        held = decoded(listing, digests, view)
        keep(held, where)
    for count, name in zip(held.counts.tolist(), PARTS, strict=True):
        if not count:
            lost = f"; {tally(p.path for p in held.problems)} cannot be used" if held.problems else ": there are too few"
            raise DataError(f"{listing.root} leaves no images for the {name} part{lost}")
    return replace(held, problems=tuple(sorted([*listing.problems, *held.problems])))


def digest_of(entry: Entry) -> str:
    """A hash of a file's bytes; empty where it cannot be read."""
    try:
        with open(entry.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def key(listing: Listing, digests: list[str], view: View) -> str:
    """A hash of all that the images are a function of: content, names, classes, and who makes them."""
    facts = [[e.name, e.label, e.part, digest] for e, digest in zip(listing.entries, digests, strict=True)]
    text = json.dumps([VERSION, PIL.__version__, to_json(view), listing.classes, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def decoded(listing: Listing, digests: list[str], view: View) -> Gallery:
    """The gallery, made anew."""
    entries = listing.entries
    pixels = torch.empty(len(entries), *view.input, dtype=torch.uint8)

    def make(i: int) -> Problem | None:
        try:
            pixels[i] = prepared(decode(entries[i].path), view)
        except ImageError as error:
            return Problem(entries[i].name, error.kind, error.detail)
        return None

    with quiet_pillow():
        found = mapped(make, range(len(entries)), "decoding")
    kept = [i for i, problem in enumerate(found) if problem is None]
    parts = assigned([entries[i] for i in kept], [digests[i] for i in kept])
    labels = [entries[i].label for i in kept]
    problems = [*filter(None, found), *lonely(listing.classes, labels, parts)]
    order = sorted(range(len(kept)), key=lambda i: PARTS.index(parts[i]))
    counts = torch.tensor([parts.count(part) for part in PARTS])
    return Gallery(
        pixels[torch.tensor([kept[i] for i in order], dtype=torch.int64)],
        torch.tensor([labels[i] for i in order], dtype=torch.int64), counts, tuple(entries[kept[i]].name for i in order),
        tuple(sorted(problems)),
    )  # fmt: skip


def lonely(classes: tuple[str, ...], labels: list[int], parts: list[Part]) -> list[Problem]:
    """A problem for each class that has one image to train on, or none."""
    counts = Counter(label for label, part in zip(labels, parts, strict=True) if part != "test")
    few = {0: "has no image that can be trained on", 1: "has one image to train on: give it more, or leave the class out"}
    return [Problem(name, "tiny class", few[counts[label]]) for label, name in enumerate(classes) if counts[label] in few]


def assigned(entries: list[Entry], digests: list[str]) -> list[Part]:
    """The part of each image; where no folder says it, the content does, so that it never changes, whatever else comes or goes.

    Names play no role: copies of an image are all in one part.  A class with two images has one to train on and one to test.
    """
    held_out = any(entry.part == "dev" for entry in entries)
    parts = [entry.part or chosen(digest) for entry, digest in zip(entries, digests, strict=True)]
    by_class: dict[int, list[int]] = {}
    for i in sorted((i for i, entry in enumerate(entries) if entry.part == ""), key=lambda i: digests[i]):
        by_class.setdefault(entries[i].label, []).append(i)
    for members in by_class.values():
        if all(parts[i] == "test" for i in members):
            parts[members[-1]] = "train"
        elif len(members) > 1 and all(parts[i] == "train" for i in members):
            parts[members[0]] = "test"
    if not held_out:
        hold_out(parts, entries, digests)
    return parts


def chosen(digest: str) -> Part:
    """Test or train, by a share of its hash in [0, 1)."""
    return "test" if int(digest[:13], 16) / 16**13 < TEST else "train"


def hold_out(parts: list[Part], entries: list[Entry], digests: list[str]) -> None:
    """Make a few of the training images the dev part, by another share of their hashes; of each class one is left to train on."""
    train = sorted((i for i, part in enumerate(parts) if part == "train"), key=lambda i: digests[i][13:])
    left = Counter(entries[i].label for i in train)
    wanted = [i for i in train if int(digests[i][13:26], 16) / 16**13 < DEV]
    for i in wanted or sorted(train, key=lambda i: -left[entries[i].label])[:1]:
        if left[entries[i].label] > 1:
            parts[i] = "dev"
            left[entries[i].label] -= 1


def keep(gallery: Gallery, where: Path) -> None:
    """Put it into the cache; a full disk costs the next run its time, and no more."""
    problems, names = json.dumps([asdict(problem) for problem in gallery.problems]), json.dumps(gallery.names)
    tensors = {"pixels": gallery.pixels, "labels": gallery.labels, "counts": gallery.counts}
    try:
        with written_aside(where) as aside:
            save_file(tensors, aside, {"problems": problems, "names": names})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"residua: the decoded images were not kept in {where.parent}: {reason}", file=sys.stderr)


def loaded(where: Path) -> Gallery | None:
    """What `keep` wrote; None where it is not there, or damaged."""
    try:
        with safe_open(where, framework="pt") as file:
            problems, names = [json.loads(file.metadata()[name]) for name in ("problems", "names")]
            tensors = [file.get_tensor(name) for name in ("pixels", "labels", "counts")]
        pixels, labels, counts = tensors
        return Gallery(pixels, labels, counts, tuple(names), tuple(Problem(**problem) for problem in problems))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def mapped(work: Callable[[X], Y], items: Iterable[X], what: str) -> list[Y]:
    """`work` on each item, in threads, with a bar where there are many."""
    items = list(items)
    with ThreadPoolExecutor(cores()) as pool, tqdm(total=len(items), desc=what, unit="file", disable=len(items) < LONG) as bar:
        done = []
        try:
            for result in pool.map(work, items):
                done.append(result)
                bar.update()
        except BaseException:  # Ctrl-C: what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_json(problems: Iterable[Problem]) -> Json:
    return [dict(asdict(problem)) for problem in problems]
