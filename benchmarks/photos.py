"""A folder of photographs from scratch: `residua train DIR` beside torchvision's resnet18, as most code trains that.

The usual way: ImageFolder, RandomResizedCrop(224) and flip one image at a time in a DataLoader, fp32, NCHW, SGD with a cosine;
evaluated on Resize(256), CenterCrop(224).  It is trained twice: for as many epochs as our run, and for as many seconds.  All of a
run counts as time but the evaluation: decoding, batches, steps; ours is run anew here, with nothing in its cache.

    python benchmarks/photos.py FOLDER/imagenette-sample [--run runs/photos] [--epochs 50]
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
BATCH_SIZE, BASE_LR, WEIGHT_DECAY = 32, 0.0125, 1e-4  # torchvision's 0.1 at 256


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a training came to."""

    trainer: str
    epochs: float
    seconds: float
    error: float  # on the test part

    def __str__(self) -> str:
        return f"| {self.trainer} | {self.epochs:.1f} | {self.seconds:,.0f} | {100 * (1 - self.error):.1f} % |"


def train_with_residua(folder: Path, run_folder: Path, epochs: float) -> TrainingOutcome:
    """`residua train FOLDER` with nothing chosen, unless `run` holds its result already."""
    if (
        not (run_folder / "run.json").exists()
        or json.loads((run_folder / "run.json").read_text())["result"] is None
    ):
        command = [
            sys.executable,
            "-m",
            "residua",
            "train",
            str(folder),
            "--out",
            str(run_folder),
            "--resume",
        ]
        subprocess.run(command + (["--epochs", str(epochs)] if epochs else []), check=True)
    run_record = json.loads((run_folder / "run.json").read_text())
    recipe, result, network = (
        run_record["run"]["recipe"],
        run_record["result"],
        run_record["run"]["network"],
    )
    side = network["input"][1]
    return TrainingOutcome(
        f"residua train ({network['name']}, {side} px)",
        recipe["epochs"],
        result["seconds"],
        result["test_error"],
    )


def make_torchvision_loaders(folder: Path) -> tuple[DataLoader, DataLoader]:
    """Of the training images and of the others, as torchvision's own example makes them."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.third_party import import_torchvision

    import_torchvision()
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
    """torchvision's resnet18 until so many epochs or so many seconds are over; the rate falls along a cosine to the end."""
    train, test = make_torchvision_loaders(folder)
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18(num_classes=len(train.dataset.classes)).train()
    optimiser = torch.optim.SGD(net.parameters(), BASE_LR, momentum=0.9, weight_decay=WEIGHT_DECAY)
    started, steps, total_steps = time.perf_counter(), 0, math.ceil(epochs * len(train))
    bar = tqdm(
        total=100,
        unit="%",
        desc=f"torchvision, {epochs:g} epochs" if epochs else f"torchvision, {seconds:.0f} s",
    )

    def fraction_done() -> float:
        return steps / total_steps if epochs else (time.perf_counter() - started) / seconds

    for _ in count():
        for images, labels in train:
            if fraction_done() >= 1:
                break
            optimiser.param_groups[0]["lr"] = (
                BASE_LR * (1 + math.cos(math.pi * fraction_done())) / 2
            )
            loss = F.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            bar.update(min(100 * fraction_done(), 100) - bar.n)
        if fraction_done() >= 1:
            break
    bar.close()
    elapsed = time.perf_counter() - started
    return TrainingOutcome(
        "torchvision resnet18, 224 px, fp32",
        steps / len(train),
        elapsed,
        measure_test_error(net, test),
    )


@torch.inference_mode()
def measure_test_error(net: nn.Module, test_loader: DataLoader) -> float:
    net.eval()
    wrong = sum(int((net(images).argmax(1) != labels).sum()) for images, labels in test_loader)
    return wrong / len(test_loader.dataset)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--run", type=Path, help="a folder for our run, or with its result (default: a new one)"
    )
    parser.add_argument("--epochs", type=float, default=0, help="of ours (default: as chosen)")
    parser.add_argument(
        "--only", choices=("epochs", "time"), help="one of torchvision's two trainings"
    )
    arguments = parser.parse_args()
    run_folder = arguments.run or Path(tempfile.mkdtemp()) / "run"
    residua_outcome = train_with_residua(arguments.folder, run_folder, arguments.epochs)
    print("| who | epochs | seconds | right on the test part |\n|---|---|---|---|")
    print(residua_outcome, flush=True)
    if arguments.only != "epochs":
        print(train_torchvision_resnet18(arguments.folder, 0, residua_outcome.seconds), flush=True)
    if arguments.only != "time":
        print(train_torchvision_resnet18(arguments.folder, residua_outcome.epochs, 0), flush=True)


if __name__ == "__main__":
    main()
