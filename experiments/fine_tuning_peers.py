"""What do fastai and timm give with the same weights, photographs and minutes?

The weights are those of the stand-in of `fine_tuning.py`, under timm's names.  Each peer trains as
its documentation shows, with its own defaults: fastai with `vision_learner(...).fine_tune(epochs)`,
timm with a loop of its transforms, optimisers and schedules.  Neither needs images to choose among
its networks, so both train on all training images, and the test images are read once, at the end.
The number of epochs is `--epochs`, or as many as `--seconds` of training allow: one epoch is timed
beforehand, with a network that is thrown away.

    python experiments/fine_tuning_peers.py runs/six IMAGES/four --size 64 --seconds 60 \
        --out experiments/fine-tuning
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from fine_tuning import WEIGHTS, compute_sha256, write_timm_weights
from fine_tuning_table import FIRST_ARM, RECORD, format_table, read_rows
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from residua.version import __version__

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from peers import load_third_party

MODEL = "resnet18"
TIMM_BATCH, WARMUP_EPOCHS, WORKERS = 32, 5, 2
TIMM_OPTIMISERS: dict[str, dict[str, Any]] = {
    # the defaults of timm's train.py: 0.1 for a batch of 256 images
    "sgd": {"lr": 0.1 * TIMM_BATCH / 256, "momentum": 0.9, "weight_decay": 2e-5},
    "adamw": {"lr": 5e-4, "weight_decay": 0.05},
}


@dataclass(frozen=True)
class Task:
    """What a peer is given: `epochs`, or the `seconds` that training may take."""

    weights: Path  # a safetensors file with timm's names
    images: Path  # with the folders train and test, or train and val
    size: int  # side of the images in pixels
    seed: int
    precision: str
    epochs: int | None
    seconds: float | None

    @property
    def test_folder(self) -> str:
        return "test" if (self.images / "test").is_dir() else "val"

    def choose_epochs(self, measure_epoch: Callable[[], float], spent: float = 0.0) -> int:
        """Return the epochs, or as many as the seconds allow, less `spent`; at least one."""
        if self.epochs is not None:
            return self.epochs
        assert self.seconds is not None
        return max(int((self.seconds - spent) / measure_epoch()), 1)


def measure_seconds(train: Callable[[], object]) -> float:
    start = time.perf_counter()
    train()
    return time.perf_counter() - start


def fine_tune_with_fastai(task: Task) -> dict[str, Any]:
    """Train with fastai's `fine_tune`, as its tutorial does, and count the errors."""
    torchvision = load_third_party().torchvision
    from fastai.callback.core import CancelValidException
    from fastai.vision import all as fastai

    class NoValidation(fastai.Callback):  # the test images are not seen before the end
        def before_validate(self) -> None:
            raise CancelValidException

    def load_stand_in(weights: object) -> nn.Module:
        tensors = load_file(task.weights)
        net = torchvision.models.resnet18(num_classes=len(tensors["fc.bias"]))
        net.load_state_dict(tensors)
        return net

    fastai.model_meta[load_stand_in] = fastai.model_meta[torchvision.models.resnet18]
    fastai.set_seed(task.seed, reproducible=True)

    def make_learner() -> Any:
        loaders = fastai.ImageDataLoaders.from_folder(
            task.images,
            valid=task.test_folder,
            item_tfms=fastai.Resize(2 * task.size),
            batch_tfms=fastai.aug_transforms(size=task.size),
        )
        return fastai.vision_learner(loaders, load_stand_in, metrics=fastai.error_rate)

    trial, skip = make_learner(), {"cbs": NoValidation()}
    with trial.no_bar(), trial.no_logging():
        head_seconds = measure_seconds(lambda: trial.fit_one_cycle(1, **skip))
        trial.unfreeze()
        epochs = task.choose_epochs(
            lambda: measure_seconds(lambda: trial.fit_one_cycle(1, **skip)), head_seconds
        )
    learner = make_learner()
    with learner.no_bar(), learner.no_logging():
        seconds = measure_seconds(lambda: learner.fine_tune(epochs, **skip))
        train_files = fastai.get_image_files(task.images / "train")
        train_loader = learner.dls.test_dl(train_files, with_labels=True)
        errors = [float(learner.validate(dl=dl)[1]) for dl in (train_loader, learner.dls.valid)]
    steps = (epochs + 1) * len(learner.dls.train)
    return describe_result(epochs, steps, seconds, *errors, "fastai")


def train_timm_loop(task: Task, optimiser: str) -> dict[str, Any]:
    """Train a loop of timm's parts, and count the errors."""
    torchvision = load_third_party().torchvision
    from timm import create_model
    from timm.data import create_transform, resolve_data_config

    torch.manual_seed(task.seed)
    folders = [task.images / "train", task.images / task.test_folder]
    classes = len(list(folders[0].iterdir()))
    overlay = {"file": str(task.weights), "num_classes": len(load_file(task.weights)["fc.bias"])}

    def make_model() -> nn.Module:
        return create_model(
            MODEL, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )

    model = make_model()
    config = resolve_data_config({"input_size": (3, task.size, task.size)}, model=model)
    augmented, plain, test = (
        torchvision.datasets.ImageFolder(
            str(folder), create_transform(**config, is_training=is_training)
        )
        for folder, is_training in ((folders[0], True), (folders[0], False), (folders[1], False))
    )
    loader = DataLoader(augmented, TIMM_BATCH, shuffle=True, drop_last=True, num_workers=WORKERS)
    train = partial(train_timm_epochs, loader=loader, optimiser=optimiser, task=task)
    epochs = task.choose_epochs(lambda: measure_seconds(lambda: train(make_model(), epochs=1)))
    seconds = measure_seconds(lambda: train(model, epochs=epochs))
    errors = [count_errors(model, data) for data in (plain, test)]
    return describe_result(epochs, epochs * len(loader), seconds, *errors, "timm")


def train_timm_epochs(
    model: nn.Module, epochs: int, loader: DataLoader[Any], optimiser: str, task: Task
) -> None:
    """Train with label smoothing and one cosine after a warm-up, as timm's train.py does."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    settings = TIMM_OPTIMISERS[optimiser]
    update = create_optimizer_v2(model, opt=optimiser, **settings)
    schedule, _ = create_scheduler_v2(
        update,
        num_epochs=epochs,
        warmup_epochs=min(WARMUP_EPOCHS, epochs // 5),
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    loss_function = LabelSmoothingCrossEntropy(smoothing=0.1)
    step = 0
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bf16"):
                scores = model(images)
            update.zero_grad()
            loss_function(scores.float(), labels).backward()
            update.step()
            step += 1
            schedule.step_update(num_updates=step)


@torch.inference_mode()
def count_errors(model: nn.Module, data: Any) -> float:
    """Return the share of images that a network classifies wrongly."""
    model.eval()
    loader = DataLoader(data, 2 * TIMM_BATCH, num_workers=WORKERS)
    wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in loader)
    return wrong / len(data)


def describe_result(
    epochs: int, steps: int, seconds: float, train_error: float, test_error: float, library: str
) -> dict[str, Any]:
    return {
        "steps": steps,
        "seconds": seconds,
        "train_error": train_error,
        "test_error": test_error,
        "epochs": epochs,
        "versions": {name: version(name) for name in (library, "torch")},
    }


ARMS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "fastai fine_tune": fine_tune_with_fastai,
    "timm loop": partial(train_timm_loop, optimiser="sgd"),
    "timm loop, AdamW": partial(train_timm_loop, optimiser="adamw"),
}


def measure_peers(given: argparse.Namespace) -> None:
    """Train each arm with each seed, and add a row to the record after each."""
    record = given.out / RECORD
    given.out.mkdir(parents=True, exist_ok=True)
    stand_in = compute_sha256(given.run / "last" / "model.safetensors")
    done = [identify_row(row) for row in read_rows(record)]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "model.safetensors")
        sha256 = write_timm_weights(given.run, weights)
        for key, arm, task in list_tasks(given, weights, stand_in):
            if identify_row(key) in done:
                continue
            row = key | {"residua": __version__, "device": f"CPU, {platform.machine()}"}
            row |= ARMS[arm](task)
            row |= {"weights_from": {"name": WEIGHTS, "sha256": sha256}, "model": MODEL}
            with record.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['arm']}, seed {row['seed']}: {row['test_error']:.1%}", flush=True)
    same = {"data": given.images.name, "size": given.size, "stand_in": stand_in}
    rows = read_rows(record)
    print(format_table([row for row in rows if {name: row.get(name) for name in same} == same]))


def list_tasks(
    given: argparse.Namespace, weights: Path, stand_in: str
) -> Iterator[tuple[dict[str, Any], str, Task]]:
    """Yield what is to be trained: the beginning of its row, its arm, and the task."""
    for seed in given.seeds:
        for arm in given.arms:
            length = (given.epochs, given.seconds)
            side = given.side or given.size
            task = Task(weights, given.images, side, seed, given.precision, *length)
            name = f"{arm}, {given.epochs} epochs" if given.epochs else arm
            uses_bf16 = given.precision == "bf16" and arm.startswith("timm")
            row = {"arm": f"{name}, bf16" if uses_bf16 else name, "seed": seed}
            row |= {"data": given.images.name, "size": given.size, "stand_in": stand_in}
            yield row | {"budget_seconds": given.seconds}, arm, task


def identify_row(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("arm", "seed", "data", "size", "stand_in", "budget_seconds")
    return tuple(row.get(name) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="the run of the stand-in")
    parser.add_argument("images", type=Path, help="a folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the record")
    parser.add_argument("--size", type=int, help="as in `fine_tuning.py measure`, for the row")
    parser.add_argument("--side", type=int, help="of the images in pixels (default: --size)")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float, help="of training, for each arm and seed")
    length.add_argument("--epochs", type=int, help="of training; fastai adds one of the head alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of timm")
    given = parser.parse_args()
    if not (given.size or given.side):
        parser.error(f"give --size, or --side where {FIRST_ARM!r} was measured without --size")
    measure_peers(given)


if __name__ == "__main__":
    main()
