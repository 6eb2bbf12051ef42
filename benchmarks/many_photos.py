"""Train on very many photographs with little memory, and kill the run again and again.

    python benchmarks/many_photos.py make FOLDER/imagenette-sample --out PHOTOS --images 200000
    python benchmarks/many_photos.py train PHOTOS --kills 10 --memory-cgroup /sys/fs/cgroup/.../many

`make` writes JPEG files: crops of real photographs, a little brighter or darker, each different.
`train` times the first run, which decodes all photographs, and the second, which finds them in the
cache, up to their first step.  Then it kills a run at random moments, goes on with it each time,
and compares the weights at the end with those of a run that was left alone.  A memory cgroup
(version 1 or 2) has its limit set by you; all runs are in it, and it counts the page cache too.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

SHORTER_SIDE = 160  # pixels of the photographs that are made
JPEG_QUALITY = 85
TRAINING = ("--from", "none", "--model", "resnet10,width=0.25", "--size", "128", "--json")
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


def count_rows(run: Path) -> int:
    """Count the rows of a run's metrics; 0 before the first."""
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def seconds_to_first_step(photos: Path, run: Path, cgroup: Path | None) -> float:
    """Train for one step; return the seconds until its checkpoint was there."""
    start = time.monotonic()
    process = start_training(photos, run, cgroup, "--steps", "2", "--save-every", "1")
    while process.poll() is None and not list(run.glob("checkpoint*")):
        time.sleep(0.1)
    seconds = time.monotonic() - start
    process.wait()
    require_success(process, run)
    return seconds


def require_success(process: subprocess.Popen[bytes], run: Path) -> None:
    """Stop, with the last lines of the error output, if a run failed."""
    if process.returncode:
        last = Path(f"{run}.err").read_text().replace("\r", "\n").splitlines()[-3:]
        sys.exit(f"{run} ended with code {process.returncode}: {' | '.join(last)}")


def hash_weights(run: Path) -> str:
    """Return the SHA-256 sum of the weights at the end of a run."""
    return hashlib.sha256((run / "last" / "model.safetensors").read_bytes()).hexdigest()


def train_and_kill(
    photos: Path, run: Path, cgroup: Path | None, steps: int, kills: int, mean_seconds: float
) -> int:
    """Train a run to its end, killed at up to `kills` random moments; return how often it was."""
    options = ("--steps", str(steps), "--save-every", "5")
    done = 0
    while True:
        resumes = ("--resume",) if run.exists() else ()
        process = start_training(photos, run, cgroup, *options, *resumes)
        try:
            patience = random.Random(done).uniform(0.5, 1.5) * mean_seconds
            process.wait(patience if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            continue
        require_success(process, run)
        return done


def measure(
    photos: Path, cgroup: Path | None, steps: int, kills: int, mean_seconds: float
) -> dict[str, object]:
    """Measure what the module's docstring says; return it for JSON."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        first = seconds_to_first_step(photos, runs / "first", cgroup)
        warm = seconds_to_first_step(photos, runs / "warm", cgroup)
        alone = runs / "alone"
        process = start_training(photos, alone, cgroup, "--steps", str(steps))
        resident = []
        while process.poll() is None:
            resident.append(read_resident_mib(process.pid))
            time.sleep(1)
        require_success(process, alone)
        facts = json.loads(Path(f"{alone}.out").read_text())
        done = train_and_kill(photos, runs / "killed", cgroup, steps, kills, mean_seconds)
        same = hash_weights(alone) == hash_weights(runs / "killed")
    later = [mib for mib in resident if mib]
    return {
        "photographs": sum(facts["splits"].values()),
        "seconds_to_first_step": {"nothing decoded": round(first, 1), "decoded": round(warm, 1)},
        "steps": steps,
        "images_per_second": facts["images_per_second"],
        "data_wait": facts.get("data_wait"),
        "resident_mib": {
            "at half of the run": later[len(later) // 2],
            "at the end": later[-2],
            "highest": max(later),
        },
        "cgroup_peak_mib": read_peak_mib(cgroup),
        "kills": done,
        "same_weights_as_undisturbed": same,
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
    train.add_argument("--steps", type=int, default=300)
    train.add_argument("--kills", type=int, default=10)
    train.add_argument("--seconds", type=float, default=40, help="mean time until a kill")
    given = parser.parse_args()
    if given.command == "make":
        make_photos(given.folder, given.out, given.images)
    else:
        facts = measure(given.photos, given.memory_cgroup, given.steps, given.kills, given.seconds)
        print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
