"""Accuracy on a photo folder: `residua train DIR` against torchvision's resnet18, from scratch.

torchvision's network is trained as most scripts do: ImageFolder, RandomResizedCrop(224) and flip of
one image at a time in a DataLoader, fp32, NCHW, SGD with a cosine schedule; evaluated with
Resize(256) and CenterCrop(224).  It is trained twice: for as many epochs as our run, and for as
many seconds.  The time of a run includes decoding, batches and steps, and excludes the evaluation;
our run starts with an empty cache.

    python benchmarks/photos.py FOLDER/imagenette-sample [--run runs/photos] [--epochs 50]
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peers import load_third_party
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from residua.data.sources.resolve import IMAGENET_MEAN, IMAGENET_STD

BATCH_SIZE, WEIGHT_DECAY = 32, 1e-4
BASE_LR = 0.1 * BATCH_SIZE / 256  # torchvision uses 0.1 at batch size 256


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """Cost and test error of one training run; prints as a row of the table."""

    trainer: str
    epochs: float
    seconds: float
    error: float  # on the test images, in [0, 1]

    def __str__(self) -> str:
        accuracy = f"{100 * (1 - self.error):.1f} %"
        return f"| {self.trainer} | {self.epochs:.1f} | {self.seconds:,.0f} | {accuracy} |"


def train_with_residua(folder: Path, run_folder: Path, epochs: float) -> TrainingOutcome:
    """Run `residua train FOLDER --from none`, unless `run_folder` holds its result.

    `epochs` = 0 keeps the default number of epochs.
    """
    run_json = run_folder / "run.json"
    if not run_json.exists() or json.loads(run_json.read_text())["result"] is None:
        command = [
            sys.executable,
            "-m",
            "residua",
            "train",
            str(folder),
            "--from",
            "none",
            "--out",
            str(run_folder),
            "--resume",
        ]
        subprocess.run(command + (["--epochs", str(epochs)] if epochs else []), check=True)
    record = json.loads(run_json.read_text())
    recipe, network, result = record["run"]["recipe"], record["run"]["network"], record["result"]
    side = network["input"][1]
    return TrainingOutcome(
        f"residua train ({network['name']}, {side} px)",
        recipe["epochs"],
        result["seconds"],
        result["test_error"],
    )


def make_torchvision_loaders(folder: Path) -> tuple[DataLoader, DataLoader]:
    """The loaders of training and test images, as in torchvision's own training example."""
    load_third_party()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    tensor = [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    train = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), *tensor])
    test = v2.Compose([v2.Resize(256), v2.CenterCrop(224), *tensor])
    held_out = next(folder / name for name in ("test", "val") if (folder / name).is_dir())
    return (
        DataLoader(
            ImageFolder(folder / "train", train),
            BATCH_SIZE,
            shuffle=True,
            num_workers=2,
            drop_last=True,
            persistent_workers=True,
        ),
        DataLoader(ImageFolder(held_out, test), 50, num_workers=2),
    )


def train_torchvision_resnet18(folder: Path, epochs: float, seconds: float) -> TrainingOutcome:
    """Train torchvision's resnet18 for `epochs`, or for `seconds` if `epochs` is 0.

    The learning rate follows a cosine from `BASE_LR` to 0.
    """
    train, test = make_torchvision_loaders(folder)
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18(num_classes=len(train.dataset.classes)).train()
    optimiser = torch.optim.SGD(net.parameters(), BASE_LR, momentum=0.9, weight_decay=WEIGHT_DECAY)
    started, steps, total_steps = time.perf_counter(), 0, math.ceil(epochs * len(train))
    length = f"{epochs:g} epochs" if epochs else f"{seconds:.0f} s"

    def fraction_done() -> float:
        return steps / total_steps if epochs else (time.perf_counter() - started) / seconds

    with tqdm(total=100, unit="%", desc=f"torchvision, {length}") as bar:
        for images, labels in repeat_until(train, lambda: fraction_done() >= 1):
            cosine = (1 + math.cos(math.pi * fraction_done())) / 2
            optimiser.param_groups[0]["lr"] = BASE_LR * cosine
            loss = F.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            bar.update(min(100 * fraction_done(), 100) - bar.n)
    elapsed = time.perf_counter() - started
    return TrainingOutcome(
        "torchvision resnet18, 224 px, fp32",
        steps / len(train),
        elapsed,
        measure_test_error(net, test),
    )


def repeat_until(loader: DataLoader, is_done: Callable[[], bool]) -> Iterator[list[Tensor]]:
    """Yield the loader's batches, epoch after epoch, until `is_done` before a batch."""
    while not is_done():
        for batch in loader:
            if is_done():
                return
            yield batch


@torch.inference_mode()
def measure_test_error(net: nn.Module, test_loader: DataLoader) -> float:
    """The share of wrong predictions, in [0, 1]."""
    net.eval()
    wrong = sum(int((net(images).argmax(1) != labels).sum()) for images, labels in test_loader)
    return wrong / len(test_loader.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--run",
        type=Path,
        help="the folder of our run; a finished run is not repeated (default: a new folder)",
    )
    parser.add_argument(
        "--epochs", type=float, default=0, help="of our run (default: chosen by residua)"
    )
    parser.add_argument(
        "--only",
        choices=("epochs", "time"),
        help="run only the comparison at equal epochs, or only the one at equal time",
    )
    arguments = parser.parse_args()
    run_folder = arguments.run or Path(tempfile.mkdtemp()) / "run"
    residua_outcome = train_with_residua(arguments.folder, run_folder, arguments.epochs)
    print("| trained by | epochs | seconds | test accuracy |\n|---|---|---|---|")
    print(residua_outcome, flush=True)
    if arguments.only != "epochs":
        print(train_torchvision_resnet18(arguments.folder, 0, residua_outcome.seconds), flush=True)
    if arguments.only != "time":
        print(train_torchvision_resnet18(arguments.folder, residua_outcome.epochs, 0), flush=True)


if __name__ == "__main__":
    main()
