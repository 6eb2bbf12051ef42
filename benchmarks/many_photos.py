"""Train on very many photographs with little memory, and kill the run again and again.

    python benchmarks/many_photos.py make FOLDER/imagenette-sample --out PHOTOS --images 200000
    python benchmarks/many_photos.py train PHOTOS --kills 10 --memory-cgroup /sys/fs/cgroup/.../many

`make` writes JPEG files: crops of real photographs, a little brighter or darker, each different.
`train` times the first run, which decodes all photographs, and the second, which finds them in the
cache, up to their first step.  Then it kills a run at random moments, goes on with it each time,
and compares its checkpoint of one step with that of a run that was left alone.  A memory cgroup
(version 1 or 2) has its limit set by you; all runs are in it, and it counts the page cache too.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from residua.training.checkpoint import list_checkpoints, load_checkpoint

SHORTER_SIDE = 160  # pixels of the photographs that are made
JPEG_QUALITY = 85
TRAINING = ("--from", "none", "--model", "resnet10,width=0.25", "--size", "128")
SAVE_EVERY = 50  # steps, so that a checkpoint stays for seconds before newer ones replace it
PEAK_FILES = ("memory.max_usage_in_bytes", "memory.peak")  # of cgroups of version 1 and 2


@cache
def load_source(path: Path) -> Image.Image:
    """Read a photograph, a little larger than the crops of it."""
    with Image.open(path) as photo:
        image = photo.convert("RGB")
    scale = 1.25 * SHORTER_SIDE / min(image.size)
    return image.resize((round(scale * image.width), round(scale * image.height)))


def write_photo(number: int, sources: list[Path], out: Path) -> None:
    """Write photograph `number`: a random crop of a source with a random brightness."""
    path = sources[number % len(sources)]
    source, draw = load_source(path), random.Random(number)
    width, height = (round(side / 1.25) for side in source.size)
    left, top = draw.randrange(source.width - width + 1), draw.randrange(source.height - height + 1)
    gain = draw.uniform(0.8, 1.2)
    levels = [min(round(gain * level), 255) for level in range(256)] * 3
    image = source.crop((left, top, left + width, top + height)).point(levels)
    image.save(out / path.parent.name / f"{number:07}.jpg", quality=JPEG_QUALITY)


def make_photos(folder: Path, out: Path, count: int) -> None:
    """Write `count` photographs made from those of the training split of `folder`."""
    sources = sorted((folder / "train").glob("*/*"))
    for folder_name in {source.parent.name for source in sources}:
        (out / folder_name).mkdir(parents=True, exist_ok=True)
    write = partial(write_photo, sources=sources, out=out)
    with ProcessPoolExecutor() as pool:
        for _ in tqdm(pool.map(write, range(count), chunksize=100), total=count):
            pass


def start_training(
    photos: Path, run: Path, cgroup: Path | None, *options: str
) -> subprocess.Popen[bytes]:
    """Start `residua train` in the memory cgroup, with its output in files beside the run."""

    def enter_cgroup() -> None:
        if cgroup:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    with open(f"{run}.out", "w") as out, open(f"{run}.err", "w") as err:
        command = [sys.executable, "-m", "residua", "train", str(photos), "--out", str(run)]
        return subprocess.Popen(
            [*command, *TRAINING, *options],
            stdout=out,
            stderr=err,
            preexec_fn=enter_cgroup,
        )


def seconds_to_first_step(photos: Path, run: Path, cgroup: Path | None) -> float:
    """Train for a step; return the seconds until its checkpoint was there."""
    start = time.monotonic()
    train_to_step(photos, run, cgroup, 1, save_every=1)
    return time.monotonic() - start


def find_checkpoints(run: Path) -> dict[int, Path]:
    """Find the checkpoints of a run, by their steps."""
    paths = list_checkpoints(run / "checkpoints")
    return {int(path.stem.split("-")[-1]): path for path in paths}


def require_running(process: subprocess.Popen[bytes], run: Path) -> None:
    """Stop, with the last lines of the error output, if a run has ended."""
    if process.poll() is not None:
        last = Path(f"{run}.err").read_text().replace("\r", "\n").splitlines()[-3:]
        sys.exit(f"{run} ended with code {process.returncode}: {' | '.join(last)}")


def train_to_step(
    photos: Path,
    run: Path,
    cgroup: Path | None,
    step: int,
    *,
    save_every: int,
    kill_after: Sequence[float] = (),
) -> tuple[list[int], list[int]]:
    """Train a run, or go on with it, until the checkpoint of `step`, and kill it.

    Before that it is killed so many seconds after each of its first starts.  Returns its memory in
    MiB, once a second, and the newest checkpoint at each kill.
    """
    resident, killed_at = [], []
    for seconds in (*kill_after, float("inf")):
        options = ("--save-every", str(save_every), *(("--resume",) if run.exists() else ()))
        process = start_training(photos, run, cgroup, *options)
        end = time.monotonic() + seconds
        while max(find_checkpoints(run), default=0) < step and time.monotonic() < end:
            require_running(process, run)
            resident.append(read_resident_mib(process.pid))
            time.sleep(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(max(find_checkpoints(run), default=0))
    return resident, killed_at


def load_step(run: Path, step: int) -> dict[str, Tensor]:
    """Load all tensors of a run's checkpoint of `step`."""
    groups, _ = load_checkpoint(find_checkpoints(run)[step])
    return {
        f"{group}/{name}": tensors[name] for group, tensors in groups.items() for name in tensors
    }


def measure(
    photos: Path, cgroup: Path | None, step: int, kills: int, mean_seconds: float
) -> dict[str, object]:
    """Measure what the module's docstring says; return it for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        first = seconds_to_first_step(photos, runs / "first", cgroup)
        warm = seconds_to_first_step(photos, runs / "warm", cgroup)
        resident, _ = train_to_step(photos, runs / "alone", cgroup, step, save_every=SAVE_EVERY)
        draw = random.Random(0)
        moments = [draw.uniform(0.5, 1.5) * mean_seconds for _ in range(kills)]
        _, killed_at = train_to_step(
            photos, runs / "killed", cgroup, step, save_every=SAVE_EVERY, kill_after=moments
        )
        if any(newest >= step for newest in killed_at[:-1]):
            sys.exit(f"step {step} came before the last kill: give a later --step")
        alone, killed = load_step(runs / "alone", step), load_step(runs / "killed", step)
    length = len(resident)
    quarters = [resident[i * length // 4 : (i + 1) * length // 4] for i in range(4)]
    return {
        "photographs": sum(1 for _ in photos.glob("*/*")),
        "seconds_to_first_step": {"nothing decoded": round(first, 1), "decoded": round(warm, 1)},
        "step": step,
        "highest_resident_mib_by_quarter": [max(quarter, default=0) for quarter in quarters],
        "cgroup_peak_mib": read_peak_mib(cgroup),
        "newest_checkpoint_at_kill": killed_at[:-1],
        "equal_tensors": alone.keys() == killed.keys()
        and all(torch.equal(alone[name], killed[name]) for name in alone),
    }


def read_resident_mib(process_id: int) -> int:
    """Return the resident memory of a process in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), 0)


def read_peak_mib(cgroup: Path | None) -> int | None:
    """Return the most memory that was ever used in a cgroup, in MiB; None without a cgroup."""
    files = [cgroup / name for name in PEAK_FILES] if cgroup else []
    return next((int(file.read_text()) // 2**20 for file in files if file.exists()), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the photographs")
    make.add_argument("folder", type=Path, help="photographs with a folder train/")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--images", type=int, default=200_000)
    train = commands.add_parser("train", help="train on them, kill, and print the figures")
    train.add_argument("photos", type=Path)
    train.add_argument("--memory-cgroup", type=Path)
    train.add_argument("--step", type=int, default=4000)
    train.add_argument("--kills", type=int, default=10)
    train.add_argument("--seconds", type=float, default=25, help="mean time until a kill")
    given = parser.parse_args()
    if given.command == "train" and given.step % SAVE_EVERY:
        parser.error(f"--step must be a multiple of {SAVE_EVERY}")
    if given.command == "make":
        make_photos(given.folder, given.out, given.images)
    else:
        facts = measure(given.photos, given.memory_cgroup, given.step, given.kills, given.seconds)
        print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
