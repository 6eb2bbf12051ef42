"""What do trained weights, and each field for fine-tuning, give on few photographs?

No publisher's weights are here, so a stand-in is trained first: resnet18 on six classes of
CIFAR-10.  A server on this machine offers its weights as timm's hub offers `resnet18.a1_in1k`, and
`residua train` fetches them as a user's command does.  The data are 50 images of each of the other
four classes, enlarged to 64 pixels, and 500 of each to test.  All arms are trained by the command
line with every choice left to it, except what the arm names.

    python experiments/fine_tuning.py images CIFAR-10-FOLDER --out IMAGES
    residua train IMAGES/six --from none --model resnet18 --size 64 --epochs 12 \
        --set batch_size=64 --out runs/six
    python experiments/fine_tuning.py measure runs/six IMAGES/four --out experiments/fine-tuning
    python experiments/fine_tuning_peers.py runs/six IMAGES/four --size 64 --seconds 60 \
        --out experiments/fine-tuning
    python experiments/fine_tuning.py table experiments/fine-tuning --into docs/howto/fine-tune.md
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from fine_tuning_table import FIRST_ARM, RECORD, T_95, format_table, read_rows, write_tables
from PIL import Image
from tqdm import tqdm

from residua.config.dataset import get_dataset
from residua.data.read import read_split
from residua.version import __version__

NEW_CLASSES = ("cat", "dog", "horse", "truck")  # the other six are the stand-in's
TRAINING_IMAGES, TEST_IMAGES, SIDE = 50, 500, 64  # of each new class; side in pixels
WEIGHTS = "resnet18.a1_in1k"
ARMS: dict[str, tuple[str, ...]] = {
    FIRST_ARM: (),
    "random weights": ("--from", "none"),
    "random weights, as many epochs": ("--from", "none", "--epochs", "15"),
    "random weights, 250 steps": ("--from", "none", "--steps", "250"),
    "only the last layer": ("--freeze",),
    "15 epochs": ("--epochs", "15"),
    "250 steps": ("--steps", "250"),
    "500 steps": ("--steps", "500"),
    "probe=0.1": ("--set", "probe=0.1"),
    "probe=0.3": ("--set", "probe=0.3"),
    "body_lr=1": ("--set", "body_lr=1"),
    "layer_decay=0.4": ("--set", "layer_decay=0.4"),
    "bn=frozen": ("--set", "bn=frozen"),
    "bn=reestimated": ("--set", "bn=reestimated"),
    "ema=0.98": ("--set", "ema=0.98"),
    "clip_norm=1": ("--set", "clip_norm=1"),
    "randaugment=2": ("--set", "augment.randaugment=2"),
    "sizes=[0.5,0.75,1]": ("--set", "sizes=[0.5,0.75,1]"),
}
"""The arms: what the command line says besides the data and the seed."""


def write_images(cifar10: Path, out: Path) -> None:
    """Write the stand-in's training images and the new classes as folders of PNG files."""
    dataset = get_dataset("cifar10")
    written: dict[tuple[str, str], int] = {}
    for part in ("train", "dev", "test"):
        images = read_split(dataset, part, cifar10)
        split = "test" if part == "test" else "train"
        for pixels, label in zip(tqdm(images.pixels), images.labels.tolist(), strict=True):
            name = dataset.classes[label]
            is_new = name in NEW_CLASSES
            number = written[split, name] = written.get((split, name), 0) + 1
            wanted = {"train": TRAINING_IMAGES, "test": TEST_IMAGES}[split]
            if is_new and number > wanted:
                continue
            path = out / ("four" if is_new else "six") / split / name / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            if is_new:
                image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image.save(path)


def write_timm_weights(run: Path, file: Path) -> str:
    """Write the weights of a run under timm's names; return the SHA-256 sum of the file."""
    residua("convert", str(run), "--to", "timm", "--out", str(file))
    return compute_sha256(file)


def compute_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def publish_weights(run: Path) -> Iterator[dict[str, str]]:
    """Offer the weights of a run as the hub does; yield the environment for commands."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "hub", "timm", WEIGHTS, "model.safetensors")
        file.parent.mkdir(parents=True)
        sha256 = write_timm_weights(run, file)
        config = json.loads((run / "last" / "config.json").read_text())
        entry = {
            "name": WEIGHTS,
            "sha256": sha256,
            "class_names": config["classes"],
            "mean": config["mean"],
            "std": config["std"],
            "licence": "",
        }
        registry = Path(folder, "registry.json")
        registry.write_text(json.dumps({"weights": [entry]}))
        handler = partial(SimpleHTTPRequestHandler, directory=str(Path(folder, "hub")))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {
                "RESIDUA_WEIGHTS": str(registry),
                "RESIDUA_MIRROR": f"http://127.0.0.1:{server.server_port}",
                "XDG_CACHE_HOME": str(Path(folder, "cache")),
            }
        finally:
            server.shutdown()
            server.server_close()


def residua(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a command of residua; return what it prints on standard output."""
    finished = subprocess.run(
        [sys.executable, "-m", "residua", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )
    return finished.stdout


def measure_arms(
    run: Path, images: Path, out: Path, seeds: list[int], arms: list[str], size: int | None
) -> None:
    """Train each arm with each seed, and add a row to `out`/results.jsonl after each.

    size: side in pixels of the square images; None leaves the choice to the command.
    """
    record = out / RECORD
    out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(record)
    sha256 = compute_sha256(run / "last" / "model.safetensors")
    done = {
        (row["arm"], row["seed"], row["data"], row.get("size"))
        for row in rows
        if row.get("stand_in", sha256) == sha256  # rows of earlier versions do not name it
    }
    with publish_weights(run) as environment, tempfile.TemporaryDirectory() as runs:
        for seed in seeds:
            for arm in arms:
                if (arm, seed, images.name, size) in done:
                    continue
                folder = str(Path(runs, f"{len(rows)}"))
                options = ("--seed", str(seed), "--out", folder, "--json", *ARMS[arm])
                options += ("--size", str(size)) if size else ()
                facts = json.loads(residua("train", str(images), *options, environment=environment))
                kept = ("steps", "seconds", "train_error", "test_error", "weights_from", "model")
                row = {"arm": arm, "seed": seed, "data": images.name}
                row |= {"size": size, "stand_in": sha256, "residua": __version__}
                row |= {"device": read_device(folder)}
                rows.append(row | {key: facts[key] for key in kept})
                with record.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    same = {"data": images.name, "size": size}
    shown = [row for row in rows if {key: row.get(key) for key in same} == same]
    print(format_table([row for row in shown if row.get("stand_in", sha256) == sha256]))


def read_device(folder: str) -> str:
    """Read from run.json which device trained a run."""
    environment = json.loads(Path(folder, "run.json").read_text())["environment"]
    return str(environment["device"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    images = commands.add_parser("images", help="write the images of both data sets")
    images.add_argument("cifar10", type=Path, help="the folder that holds cifar-10-batches-py")
    images.add_argument("--out", type=Path, required=True)
    measure = commands.add_parser("measure", help="train all arms and print the table")
    measure.add_argument("run", type=Path, help="the run of the stand-in")
    measure.add_argument("images", type=Path, help="a folder of photographs")
    measure.add_argument("--out", type=Path, required=True)
    measure.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measure.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    measure.add_argument("--size", type=int, help="side of the images in pixels (default: chosen)")
    table = commands.add_parser("table", help="write the tables of a record to its README.md")
    table.add_argument("out", type=Path, help="the folder of the record")
    table.add_argument("--into", type=Path, nargs="*", default=[], help="documents to update")
    given = parser.parse_args()
    if given.command == "measure" and FIRST_ARM not in given.arms:
        parser.error(f"--arms must name {FIRST_ARM!r}, with which the others are compared")
    if given.command == "measure" and len(set(given.seeds)) > max(T_95):
        parser.error(f"--seeds takes at most {max(T_95)} seeds")
    if given.command == "images":
        write_images(given.cifar10, given.out)
    elif given.command == "table":
        write_tables(given.out, given.into)
    else:
        measure_arms(given.run, given.images, given.out, given.seeds, given.arms, given.size)


if __name__ == "__main__":
    main()
