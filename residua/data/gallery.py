"""A data set's photographs, decoded once into images of one size, and kept in the cache for the next time.

Threads decode and one writes, so that no more than a few images are in memory, however many there are.  What cannot be decoded is
left out and named.
"""

import errno
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path

import PIL
import torch
from torch import Tensor

from residua.data.fetch import cache, in_turn
from residua.data.folder import side_kept, side_within
from residua.data.image import content_of, decode, prepared, quiet_pillow
from residua.data.listing import DEV, TEST, Entry, Listing, Part, Problem, tally
from residua.data.space import binary, free_disk, free_memory
from residua.data.store import loaded, writing
from residua.data.threads import mapped, streamed
from residua.errors import DataError, ImageError
from residua.spec.model import View
from residua.spec.text import Json, to_json

VERSION = 3  # of what the cache holds
PARTS: tuple[Part, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images (n, channels, height, width) uint8 of every file that could be decoded and labels (n,), part after part."""

    pixels: Tensor
    labels: Tensor
    counts: Tensor  # of each of PARTS
    names: tuple[str, ...]  # of the entries
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

    Raises DataError where a part is left without images, or where neither the disk nor the memory can hold them.
    """
    digests = mapped(digest_of, listing.entries, "reading")
    where = cache() / "images" / key(listing, digests, view)
    held = kept(where) or made(listing, digests, view, where)
    for count, name in zip(held.counts.tolist(), PARTS, strict=True):
        if not count:
            lost = f"; {tally(p.path for p in held.problems)} cannot be used" if held.problems else ": there are too few"
            raise DataError(f"{listing.place} leaves no images for the {name} part{lost}")
    return replace(held, problems=tuple(sorted([*listing.problems, *held.problems])))


def digest_of(entry: Entry) -> str:
    """A hash of an entry's bytes; empty where they cannot be read."""
    try:
        return hashlib.sha256(entry.content()).hexdigest()
    except OSError:
        return ""


def key(listing: Listing, digests: list[str], view: View) -> str:
    """A hash of all that the images are a function of: content, names, classes, and who makes them."""
    facts = [[e.name, e.label, e.part, digest] for e, digest in zip(listing.entries, digests, strict=True)]
    text = json.dumps([VERSION, PIL.__version__, to_json(view), listing.classes, facts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kept(where: Path) -> Gallery | None:
    """What `made` has left in the cache; None where it is not there, or damaged."""
    try:
        pixels, index = loaded(where)
        found = Index(**index)  # type: ignore[arg-type]
        return found.gallery(pixels) if len(pixels) == len(found.names) else None
    except (OSError, ValueError, TypeError):
        return None


def made(listing: Listing, digests: list[str], view: View, where: Path) -> Gallery:
    """Decoded into the cache, by one process at a time; or, where that has no room, into memory that has twice as much."""
    count, shape = len(listing.entries), view.input
    free = free_memory()
    need, most = count * prod(shape), sys.maxsize if free is None else free // 2
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(where.parent):
            if held := kept(where):  # another process was here meanwhile
                return held
            if free_disk(where.parent) < need:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with writing(where, shape) as (writer, index):
                found = decoded(listing, digests, view, writer.put)
                writer.finish(len(found.names))
                index.update(asdict(found))
        pixels, _ = loaded(where)
    except OSError as error:
        reason = error.strerror or error
        if need > most:
            side = side_within(count, shape[0], max(most, free_disk(where.parent) if where.parent.is_dir() else 0))
            raise DataError(
                f"{count:,} photographs of {shape[1]} x {shape[2]} pixels need {binary(need)}, for which there is no room in "
                f"{where.parent} ({reason}), nor in memory: make room, set XDG_CACHE_HOME to another disk"
                + (f", or train with --size {side}" if 0 < side_kept(side) < shape[1] else "")
            ) from error
        print(f"residua: the decoded images were not kept in {where.parent}: {reason}", file=sys.stderr)
        pixels = torch.empty(count, *shape, dtype=torch.uint8)
        found = decoded(listing, digests, view, pixels.__setitem__)
    return found.gallery(pixels)


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of decoded images, in their order, as JSON holds it."""

    names: list[str]
    labels: list[int]
    counts: list[int]
    problems: list[dict[str, str]]

    def gallery(self, pixels: Tensor) -> Gallery:
        problems = tuple(Problem(**problem) for problem in self.problems)
        labels, counts = [torch.tensor(numbers, dtype=torch.int64) for numbers in (self.labels, self.counts)]
        return Gallery(pixels[: len(self.names)], labels, counts, tuple(self.names), problems)


def decoded(listing: Listing, digests: list[str], view: View, put: Callable[[int, Tensor], None]) -> Index:
    """Decode every image and `put` it at its place, part after part.

    Where one is damaged others of its class may change their parts: then all are put once more, without it.
    """
    entries = listing.entries

    def make(i: int) -> Tensor | Problem:
        try:
            return prepared(decode(content_of(entries[i])), view)
        except ImageError as error:
            return Problem(entries[i].name, error.kind, error.detail)

    def parts_of(numbers: list[int]) -> list[Part]:
        return assigned([entries[i] for i in numbers], [digests[i] for i in numbers])

    lost = [i for i, digest in enumerate(digests) if not digest]
    wrong = {i: Problem(entries[i].name, "unreadable", "cannot be read") for i in lost}
    wrong |= {i: found for i in lost if isinstance(found := make(i), Problem)}  # which says why
    while True:
        sound = [i for i in range(len(entries)) if i not in wrong]
        parts, placed = dict(zip(sound, parts_of(sound), strict=True)), list[int]()
        order = sorted(sound, key=lambda i: PARTS.index(parts[i]))
        with quiet_pillow(), closing(streamed(make, order, "decoding")) as made:
            for i, found in zip(order, made, strict=True):
                if isinstance(found, Problem):
                    wrong[i] = found
                else:
                    put(len(placed), found)
                    placed.append(i)
        if parts_of(sorted(placed)) == [parts[i] for i in sorted(placed)]:
            break
    labels, own = [entries[i].label for i in placed], [parts[i] for i in placed]
    problems = sorted([*wrong.values(), *lonely(listing.classes, labels, own)])
    return Index([entries[i].name for i in placed], labels, [own.count(part) for part in PARTS], [asdict(p) for p in problems])


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


def as_json(problems: Iterable[Problem]) -> Json:
    return [dict(asdict(problem)) for problem in problems]
