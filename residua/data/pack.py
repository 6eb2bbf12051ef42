"""Pack a data set into WebDataset shards with an index: `residua data pack`.

Threads write one shard each.  A shard and its part of the index are put in place in one step, so
that a pack that was killed goes on with the shards that are missing.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from residua.config.serialize import Json
from residua.data.checked_arrays import read_checked_arrays, write_checked_arrays
from residua.data.decode import (
    suspend_pillow_limits,
)
from residua.data.pack_plan import (
    PackOptions,
    PackPlan,
    PlannedShard,
    estimate_bytes,
    plan_pack,
)
from residua.data.pack_shard import PackedPart, load_part, write_planned_shard
from residua.data.sources.listing import DataProblem, ImageListing
from residua.data.sources.packed import PACK_INDEX, SPLIT_CODES, UNFINISHED_FOLDER, PackIndex
from residua.data.sources.webdataset import CLASS_LIST_FILES
from residua.data.space import format_bytes, free_disk_bytes
from residua.data.splits import choose_dev_share
from residua.data.threads import StopEvent, count_available_cores, stop_waiting_at
from residua.errors import DataError, UsageError
from residua.files import (
    clean_up_interrupted_writes,
    delete_path,
    hold_output_lock,
    holds_visible_entries,
    make_parent_folders,
    write_text,
)

PLAN_FILE = "plan"
CountPhotos = Callable[[int, int], None]  # how many photos are done, of how many


@dataclass(frozen=True, slots=True)
class PackResult:
    """What a pack wrote; `kept_shards` were finished by an earlier attempt.

    `problems` are those of the listing, and then the photos that are left out.
    """

    folder: Path
    photos: int
    shards: int
    bytes: int
    kept_shards: int
    seconds: float
    problems: tuple[DataProblem, ...]

    def to_json(self, options: PackOptions) -> dict[str, Json]:
        """Return the summary that --json prints."""
        return {
            "out": str(self.folder),
            "photos": self.photos,
            "shards": self.shards,
            "bytes": self.bytes,
            "kept_shards": self.kept_shards,
            "size": options.size or None,
            "quality": options.quality if options.size else None,
            "seconds": round(self.seconds, 3),
            "problems": [dict(asdict(problem)) for problem in self.problems],
        }


def pack_dataset(
    listing: ImageListing, out: Path, options: PackOptions, count_photos: CountPhotos
) -> PackResult:
    """Pack the photos of a listing into shards in the folder `out`, with an index.

    Goes on where an earlier call for the same photos and options ended.  Photos that cannot be
    read, or with a size not decoded, are left out and returned as problems.  Raises UsageError if
    `out` holds anything else, and DataError if the disk has too little space or no photo is usable.
    """
    start = time.monotonic()
    require_separate_folder(listing, out)
    plan = plan_pack(listing, options)
    fingerprint = plan.compute_fingerprint()
    with make_parent_folders(out / PACK_INDEX), hold_output_lock(out):
        if (out / PACK_INDEX).exists():
            clean_up_interrupted_writes(out)  # if it was killed between its last steps
            delete_path(out / UNFINISHED_FOLDER)
            return describe_finished_pack(plan.listing, out, fingerprint, start)
        require_own_pack(out, fingerprint)
        clean_up_interrupted_writes(out)
        kept = {shard.name: load_part(out, shard) for shard in plan.shards}
        require_disk_space(plan, kept, out)
        write_text(out / UNFINISHED_FOLDER / PLAN_FILE, fingerprint)
        write_text(out / CLASS_LIST_FILES[0], "\n".join((*listing.classes, "")))
        parts = write_missing_shards(plan, out, kept, count_photos)
        facts = write_pack_index(plan, parts, fingerprint, out)
        delete_path(out / UNFINISHED_FOLDER)
    kept_count = sum(part is not None for part in kept.values())
    return make_result(plan.listing, out, facts, kept_count, time.monotonic() - start)


def make_result(
    listing: ImageListing, out: Path, facts: dict[str, Any], kept_shards: int, seconds: float
) -> PackResult:
    """Make the result from the listing, and from the facts that the index states."""
    problems = (*listing.problems, *(DataProblem(**fields) for fields in facts["problems"]))
    sizes = [size for _, size in facts["shards"]]
    return PackResult(out, facts["photos"], len(sizes), sum(sizes), kept_shards, seconds, problems)


def describe_finished_pack(
    listing: ImageListing, out: Path, fingerprint: str, start: float
) -> PackResult:
    """Return the result of a pack that is finished; UsageError if it is one of other photos."""
    try:
        facts, _ = read_checked_arrays(out / PACK_INDEX)
    except (OSError, ValueError) as error:
        raise UsageError(f"{out} holds a damaged index ({error}): choose another --out") from error
    if facts.get("plan") != fingerprint:
        raise UsageError(
            f"{out} holds other photographs, or the same in another way: choose another --out"
        )
    shards: Any = facts["shards"]
    return make_result(listing, out, facts, len(shards), time.monotonic() - start)


def require_separate_folder(listing: ImageListing, out: Path) -> None:
    """Raise UsageError if the shards would lie among the photos that are packed."""
    source, target = Path(listing.location), Path(os.path.realpath(out))
    if source.is_dir() and target.is_relative_to(os.path.realpath(source)):
        raise UsageError(f"{out} is inside {source}, which is packed: choose another --out")


def require_own_pack(out: Path, fingerprint: str) -> None:
    """Raise UsageError if `out` holds anything but a pack that this call can go on with."""
    plan_file = out / UNFINISHED_FOLDER / PLAN_FILE
    if not plan_file.is_file():
        if not out.exists() or (out.is_dir() and not holds_visible_entries(out)):
            return
        raise UsageError(f"{out} already exists: choose another --out")
    if plan_file.read_text() != fingerprint:
        raise UsageError(
            f"{out} holds an unfinished pack of other photographs or options, or the photographs "
            "have changed since: delete it, or choose another --out"
        )


def require_disk_space(plan: PackPlan, kept: dict[str, PackedPart | None], out: Path) -> None:
    """Raise DataError, before hours of work, if the disk has no room for the missing shards."""
    entries = plan.listing.entries
    needed = sum(
        estimate_bytes(entries[i], plan.options)
        for shard in plan.shards
        if kept[shard.name] is None
        for i in shard.positions
    )
    folder = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if needed > free_disk_bytes(folder):
        raise DataError(
            f"the shards need about {format_bytes(needed)}, and the disk of {out} has less: give "
            "an --out on another disk, or a smaller --size"
        )


def write_missing_shards(
    plan: PackPlan, out: Path, kept: dict[str, PackedPart | None], count_photos: CountPhotos
) -> list[PackedPart]:
    """Write the shards that are not kept, in threads; return the parts of all shards, in order."""
    total = sum(len(shard.positions) for shard in plan.shards)
    finished = [shard for shard in plan.shards if kept[shard.name] is not None]
    counter = PhotoCounter(count_photos, total, sum(len(shard.positions) for shard in finished))

    def write_or_keep(shard: PlannedShard) -> PackedPart:
        with stop_waiting_at(counter.is_stopped):
            return kept[shard.name] or write_planned_shard(plan, shard, out, counter.add_one)

    with ThreadPoolExecutor(count_available_cores()) as pool, suspend_pillow_limits():
        futures = [pool.submit(write_or_keep, shard) for shard in plan.shards]
        try:
            return [future.result() for future in futures]
        except BaseException:  # includes Ctrl-C
            counter.is_stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class PhotoCounter:
    """Counts the photos that threads have packed, and tells the threads to stop."""

    def __init__(self, count_photos: CountPhotos, total: int, done: int) -> None:
        self.count_photos, self.total, self.done = count_photos, total, done
        self.lock, self.is_stopped = Lock(), StopEvent()

    def add_one(self) -> None:
        """Count a photo; raises InterruptedError if the work has been stopped."""
        if self.is_stopped.is_set():
            raise InterruptedError
        with self.lock:
            self.done += 1
            self.count_photos(self.done, self.total)


def write_pack_index(
    plan: PackPlan, parts: list[PackedPart], fingerprint: str, out: Path
) -> dict[str, Json]:
    """Write the index of all shards, in the order of the listing; return its facts.

    Raises DataError if no photo was packed.
    """
    listing, entries = plan.listing, plan.listing.entries
    positions = np.concatenate([part.positions for part in parts])
    if not len(positions):
        first = "".join(f": {p.path} {p.detail}" for p in parts[0].problems[:1])
        raise DataError(f"{listing.location} has no photo that can be packed{first}")
    order = np.argsort(positions)
    shard_numbers = np.repeat(np.arange(len(parts)), [len(part.positions) for part in parts])
    places = np.concatenate([part.places for part in parts])
    packed = [entries[i] for i in positions[order].tolist()]
    facts: dict[str, Json] = {
        "plan": fingerprint,
        "photos": len(packed),
        "classes": list(listing.classes),
        "split_source": listing.split_source,
        "dev_share": listing.dev_share or choose_dev_share(len(entries)),
        "notes": list(listing.notes),
        "white_level": 0 if plan.options.size else listing.white_level,
        "stored_side": plan.options.size,
        "quality": plan.options.quality if plan.options.size else 0,
        "shards": [[shard.name, part.size] for shard, part in zip(plan.shards, parts, strict=True)],
        "problems": [dict(asdict(problem)) for part in parts for problem in part.problems],
    }
    index = PackIndex(
        facts,
        (),
        [entry.name for entry in packed],
        [entry.group for entry in packed],
        np.array([entry.label for entry in packed], np.int32),
        np.array([SPLIT_CODES.index(entry.split) for entry in packed], np.uint8),
        np.column_stack([shard_numbers, places])[order].astype(np.int64),
        np.concatenate([part.digests for part in parts])[order],
        np.concatenate([part.are_images for part in parts])[order],
    )
    write_checked_arrays(out / PACK_INDEX, facts, index.to_arrays())
    return facts
