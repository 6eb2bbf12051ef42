"""Trains the networks of the papers' tables, and compares the errors with the papers'.

The tables are Table 6 and Figure 6 of He et al. 2015, Tables 1 to 4 of He et al. 2016, and those
of highway nets, stochastic depth and wide nets.  A call trains for some minutes, in order of worth:
the recipe `fast` with three seeds first, then the papers' own.  A run that does not end in the time
goes on in the next call, on another machine too.

    python experiments/papers.py --minutes 12 --data-dir DIR
    python experiments/papers.py --list
    python experiments/papers.py --minutes 0     # only writes the page and results.json anew

Runs are kept in --runs until they are finished; the folder --out gets their records, results.json,
README.md and the figures.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from cifar_sheets import unpack_sheets
from papers_carry import pack_unfinished, unpack_unfinished
from papers_jobs import Job, JobOptions, choose_jobs, list_jobs
from papers_page import RESULTS, write_results
from papers_queue import now, train_jobs
from papers_records import FAILURES, Place, list_finished, read_step_times, store_records

from residua.errors import Interrupted, ResiduaError
from residua.files import atomic_write
from residua.study_records import PACKED_RUNS


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=12, help="time of this call, everything included")
    add("--data-dir", type=Path, help="folder of cifar-10-batches-py (default: $RESIDUA_DATA)")
    add("--sheets", type=Path, nargs="+", help="CIFAR-10 as sheets (see cifar_sheets.py)")
    add("--out", type=Path, default=Path("experiments/papers"), help="folder of the records")
    add("--runs", type=Path, default=Path("runs/papers"), help="folder of unfinished runs")
    add("--cells", nargs="+", default=["*"], metavar="NAME", help="nets, recipes or runs to train")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=float, default=0, help="duration of `fast` (default: its own)")
    add("--max-carry-mib", type=float, default=0, help="leave out nets of larger checkpoints")
    add("--cut-epochs", type=float, default=0, help="train those for so many epochs of `fast`")
    add("--at-once", type=int, default=1, help="runs that are trained at the same time")
    add("--bring", type=Path, help="folder with the unfinished runs of another machine")
    add("--take", type=Path, help="folder for the records and the unfinished runs, to be fetched")
    add("--list", action="store_true", help="list the runs in order of worth, and train nothing")
    return parser


def print_list(jobs: list[Job], place: Place) -> None:
    """Print the runs in order of worth, with their state and the minutes that they take."""
    finished, times = list_finished(place), read_step_times(place, jobs)
    for job in jobs:
        seconds = times.estimate_seconds(job)
        cost = "" if seconds is None else f"{seconds / 60:8.1f} min"
        state = "finished" if job.run.id in finished else ""
        print(
            f"{job.rank}  {job.total_steps:6,} steps  {job.checkpoint_mib:6.1f} MiB {cost}  "
            f"{job.name}  {state}"
        )


def copy_results(place: Place, folder: Path) -> None:
    """Copy the records, and pack the unfinished runs, into a folder that can be fetched.

    These are at most seven files.  The page and the figures can be made anew from the records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PACKED_RUNS, FAILURES, RESULTS):
        if (place.records / name).exists():
            with atomic_write(folder / name) as path:
                path.write_bytes((place.records / name).read_bytes())
    for name in pack_unfinished(place, folder):
        print(f"{name} is too large to be taken along; its checkpoint stays in {place.runs}")


def locate_data(given: argparse.Namespace) -> Path | None:
    """Return the folder of the data, after unpacking the sheets if there are any."""
    if not given.sheets:
        return Path(given.data_dir) if given.data_dir else None
    begun = now()
    data_dir = given.data_dir or Path(tempfile.gettempdir(), "residua-papers-data")
    unpack_sheets(given.sheets, data_dir)
    print(f"CIFAR-10 was unpacked in {now() - begun:.1f} s")
    return Path(data_dir)


def main(arguments: list[str] | None = None) -> int:
    begun = now()
    parser = make_parser()
    given = parser.parse_args(arguments)
    options = JobOptions(
        seeds=tuple(given.seeds),
        epochs=given.epochs,
        max_carry_mib=given.max_carry_mib,
        cut_epochs=given.cut_epochs,
    )
    try:
        jobs = choose_jobs(list_jobs(options), given.cells)
    except ValueError as error:
        parser.error(str(error))
    try:
        place = Place(given.runs, given.out, locate_data(given) if given.minutes else None)
        if given.list:
            print_list(jobs, place)
            return 0
        if given.bring:
            print(f"{len(unpack_unfinished(given.bring, place))} unfinished runs were brought")
        try:
            if given.minutes:
                train_jobs(jobs, place, begun + 60 * given.minutes, given.at_once)
        except Interrupted:
            print("interrupted; the next call goes on from here")
        store_records(place)
        write_results(place, options)
        if given.take:
            copy_results(place, given.take)
    except (ResiduaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
