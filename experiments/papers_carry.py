"""Carries unfinished runs from one machine to another in a few files (for papers.py)."""

import io
import tarfile
from pathlib import Path

from papers_records import Place, list_finished, read_failures

from residua.errors import DataError
from residua.files import atomic_write, delete_path
from residua.record import RunRecord

PART_MIB, MAX_PARTS = 15, 4  # few files of limited size can be fetched from a lent machine
PART_NAME = "unfinished.tar."


def pack_unfinished(place: Place, folder: Path) -> list[str]:
    """Pack the unfinished runs of `place` into at most four files of 15 MiB in `folder`.

    Runs that failed, or were finished elsewhere, are left out.  The files of an earlier call are
    deleted.  Returns the names of the runs that do not fit; small ones are packed first.
    """
    for path in folder.glob(f"{PART_NAME}*"):
        delete_path(path)
    sizes = {run: sum(map(size_of, list_state(run))) for run in list_unfinished(place)}
    content, left_out, limit = io.BytesIO(), [], PART_MIB * MAX_PARTS * 2**20
    with tarfile.open(fileobj=content, mode="w") as tar:
        for run in sorted(sizes, key=lambda run: sizes[run]):
            if content.tell() + sizes[run] + 2**16 > limit:
                left_out.append(run.name)
                continue
            for path in list_state(run):
                tar.add(path, path.relative_to(place.runs))
    packed = content.getvalue() if len(sizes) > len(left_out) else b""
    for number, begin in enumerate(range(0, len(packed), PART_MIB * 2**20)):
        with atomic_write(folder / f"{PART_NAME}{number}") as path:
            path.write_bytes(packed[begin : begin + PART_MIB * 2**20])
    return left_out


def list_unfinished(place: Place) -> list[Path]:
    """List the folders of the runs that can go on, and are neither finished nor failed."""
    finished, failures = list_finished(place), read_failures(place)
    return [
        path.parent
        for path in sorted(place.runs.glob("runs/*/run.json"))
        if any((path.parent / "checkpoints").glob("*.safetensors"))
        and path.parent.name not in failures
        and RunRecord(path.parent).read_run().id not in finished
    ]


def list_state(run: Path) -> list[Path]:
    """List the files from which a run goes on: its record and its newest checkpoint."""
    checkpoints = sorted((run / "checkpoints").glob("*.safetensors"))[-1:]
    return [
        path for path in (run / "run.json", run / "metrics.jsonl", *checkpoints) if path.exists()
    ]


def size_of(path: Path) -> int:
    return path.stat().st_size


def unpack_unfinished(folder: Path, place: Place) -> list[str]:
    """Put the runs that `pack_unfinished` packed into `place`; return their names.

    A run that is in `place` already is kept.  Raises DataError if the files are damaged.
    """
    packed = b"".join(path.read_bytes() for path in sorted(folder.glob(f"{PART_NAME}*")))
    if not packed:
        return []
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            names = {Path(member.name).parts[1] for member in tar.getmembers()}
            kept = {name for name in names if (place.runs / "runs" / name / "run.json").exists()}
            members = [m for m in tar.getmembers() if Path(m.name).parts[1] not in kept]
            tar.extractall(place.runs, members, filter="data")
    except (tarfile.TarError, IndexError) as error:
        raise DataError(f"the files of {folder} are damaged ({error}): copy them again") from error
    return sorted(names - kept)
