"""Training, data and evaluation included: this package against the loop that most code has, in turn on one machine.

The usual loop: a DataLoader over per-sample transforms, fp32, NCHW, one SGD step a batch; its number of workers is the better of
those tried.  Each loop has a process of its own, and a round is the same share of an epoch for each: steps, and the evaluation of
as large a share of the held-out images.  The machine's speed changes, hence turns, medians, and a ratio of those.

    RESIDUA_DATA=FOLDER python benchmarks/training.py cifar-resnet20 [--rounds 9]
    RESIDUA_DATA=FOLDER python benchmarks/training.py resnet50 --photographs FOLDER/imagenette-sample
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from tqdm import tqdm

from residua import create_model
from residua.config.dataset import get_dataset
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipe import Augmentation, recipe
from residua.data.batches import TrainingBatches
from residua.data.read import Images, read_split
from residua.training.evaluate import evaluate_network
from residua.training.machine import detect_machine
from residua.training.step import TrainingStep

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
WORKER_COUNTS = 0, 2
STEP_PARTS = {  # of a step, by what the profiler calls its operations
    "convolution, forward": ("aten::mkldnn_convolution",),
    "convolution, backward": ("aten::convolution_backward",),
    "BN, sum and ReLU": ("Normalise", "NormaliseBackward"),
    "sums of gradients": ("aten::add_",),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained, and the size of a round."""

    model: str
    batch_size: int
    steps: int
    eval_images: int  # images


WORKLOADS = {
    s.model: s
    for s in (
        Workload("cifar-resnet20", 128, 44, 640),
        Workload("resnet50", 16, 3, 32),
    )  # an eighth of an epoch; a twentieth
}


def ensure_torchvision() -> None:
    """Import torchvision, also where its operators are not built for this PyTorch."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.third_party import import_torchvision

    import_torchvision()


class PerSampleCifar10(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """CIFAR-10's images one at a time, each transformed on its own."""

    def __init__(
        self, images: Images, mean: tuple[float, ...], std: tuple[float, ...], augment: bool
    ) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        self.random, self.augment = np.random.default_rng(0), augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.pixels[i]
        if self.augment:
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            y, x = self.random.integers(0, 9, 2)
            image = padded[y : y + 32, x : x + 32]
            if self.random.random() < 0.5:
                image = image[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std, self.labels[i]


def make_sample_dataset(
    workload: Workload, photographs: Path | None, train: bool
) -> "torch.utils.data.Dataset[tuple[Tensor, int]]":
    if photographs is None:
        data = get_dataset("cifar10")
        return PerSampleCifar10(
            read_split(data, "train" if train else "dev"), data.mean, data.std, train
        )
    ensure_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()] if train else [v2.CenterCrop(224)]
    tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    return ImageFolder(photographs / ("train" if train else "val"), v2.Compose([*crop, *tensor]))


def make_dataloader_loop(
    workload: Workload, photographs: Path | None, workers: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    if photographs is None:
        net: nn.Module = create_model(workload.model)
    else:
        ensure_torchvision()
        from torchvision.models import resnet50

        net = resnet50(num_classes=10)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    loader, held_out = [
        DataLoader(
            make_sample_dataset(workload, photographs, train),
            workload.batch_size,
            shuffle=train,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
            persistent_workers=workers > 0,
        )
        for train in (True, False)
    ]

    def repeat_forever(loader: "DataLoader[tuple[Tensor, int]]") -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches, held_out_batches = repeat_forever(loader), repeat_forever(held_out)

    def train_step() -> None:
        pixels, labels = next(batches)
        loss = nn.functional.cross_entropy(net(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def evaluate_share() -> None:
        net.eval()
        with torch.inference_mode():
            for _ in range(workload.eval_images // workload.batch_size):
                pixels, labels = next(held_out_batches)
                (net(pixels).argmax(1) != labels).sum().item()
        net.train()

    return train_step, evaluate_share


def make_residua_loop(
    workload: Workload, photographs: Path | None
) -> tuple[Callable[[], None], Callable[[], None]]:
    this_machine, he2015 = detect_machine(), recipe("he2015")
    if photographs is None:
        data = get_dataset("cifar10")
        images, held_out, mean, std = (
            read_split(data, "train"),
            read_split(data, "dev"),
            data.mean,
            data.std,
        )
    else:
        images, held_out, mean, std = (
            decode_photographs(photographs / "train"),
            decode_photographs(photographs / "val"),
            IMAGENET_MEAN,
            IMAGENET_STD,
        )
    batches = TrainingBatches(images, workload.batch_size, Augmentation(), mean, std, seed=0)
    net = this_machine.prepare_model(create_model(workload.model, num_classes=10))
    step, step_numbers = TrainingStep(net, he2015.optimiser, this_machine), count()
    eval_images = held_out[slice(0, workload.eval_images)]

    def train_step() -> None:
        step(*batches.make_batch(next(step_numbers)), lr=0.01)

    return train_step, lambda: evaluate_network(net, eval_images, mean, std, this_machine) and None


def decode_photographs(folder: Path) -> Images:
    """Photographs of 224x224 pixels, once."""
    ensure_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    image_folder = ImageFolder(folder, v2.Compose([v2.CenterCrop(224), v2.PILToTensor()]))
    pixels, labels = zip(*image_folder, strict=True)
    return Images(torch.stack(pixels), torch.tensor(labels))


LOOP_FACTORIES = {
    f"usual, {workers} workers": partial(make_dataloader_loop, workers=workers)
    for workers in WORKER_COUNTS
} | {"residua": make_residua_loop}


def run_loop_process(
    name: str, workload: Workload, photographs: Path | None, connection: Connection
) -> None:
    """In a process of its own: for each word received, do that and answer."""
    step, evaluate_share = LOOP_FACTORIES[name](workload, photographs)
    while command := connection.recv():
        if command == "round":
            started = time.perf_counter()
            for _ in range(workload.steps):
                step()
            trained = time.perf_counter()
            evaluate_share()
            connection.send((trained - started, time.perf_counter() - trained))
        else:
            connection.send(profile_step_parts(step, 5))


def profile_step_parts(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operation."""
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        total_seconds = time.perf_counter() - started
    milliseconds_by_part = defaultdict(float)
    for event in profiler.key_averages():
        for part, names in STEP_PARTS.items():
            if event.key in names:
                milliseconds_by_part[part] += event.self_cpu_time_total / 1000 / steps
    return {part: milliseconds_by_part[part] for part in STEP_PARTS} | {
        "all else": 1000 * total_seconds / steps - sum(milliseconds_by_part.values())
    }


def measure_matmul_rate() -> float:
    """Operations a second of a bf16 matrix product (4096, 1024) x (1024, 1024), the median of 20."""
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    seconds = []
    for _ in range(25):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return float(2 * 4096 * 1024 * 1024 / statistics.median(seconds[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(WORKLOADS))
    parser.add_argument(
        "--photographs",
        type=Path,
        help="a folder of train/CLASS/FILE and val/CLASS/FILE, of 224x224 pixels",
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.model]
    if (arguments.photographs is None) == (workload.model == "resnet50"):
        parser.error("resnet50 wants --photographs, and cifar-resnet20 none")
    context = multiprocessing.get_context("spawn")
    connections = {}
    for name in LOOP_FACTORIES:
        connections[name], child_end = context.Pipe()
        context.Process(
            target=run_loop_process, args=(name, workload, arguments.photographs, child_end)
        ).start()
        child_end.close()  # so that the death of that process is seen here
    images = workload.steps * workload.batch_size
    rates: dict[str, list[float]] = {name: [] for name in LOOP_FACTORIES}
    step_rates: dict[str, list[float]] = {name: [] for name in LOOP_FACTORIES}
    matmul_rates = []
    for i in tqdm(range(arguments.rounds + 1), desc="rounds"):
        for name, connection in connections.items():
            connection.send("round")
            training, evaluating = connection.recv()
            if i:  # the first round warms up
                rates[name].append(images / (training + evaluating))
                step_rates[name].append(images / training)
        matmul_rates.append(measure_matmul_rate())
    connections["residua"].send("shares")
    milliseconds_by_part = connections["residua"].recv()
    for connection in connections.values():
        connection.send("")
    median_rates, median_step_rates = [
        {name: statistics.median(values) for name, values in found.items()}
        for found in (rates, step_rates)
    ]
    best_usual_loop = max(
        (name for name in LOOP_FACTORIES if name != "residua"), key=median_rates.__getitem__
    )
    planned = plan(network(workload.model))
    operations = 2 * (
        3 * planned.multiply_adds - planned.stem[0].multiply_adds
    )  # nobody asks for the gradient of images
    matmul_share = median_step_rates["residua"] * operations / statistics.median(matmul_rates)
    round_size = f"{arguments.rounds} rounds of {workload.steps} steps and {workload.eval_images} images evaluated"
    print(f"{workload.model}, batch {workload.batch_size}: images/s of {round_size}")
    print(f"{'loop':18} {'whole: median (lowest to highest)':36} steps alone")
    for name in LOOP_FACTORIES:
        print(
            f"{name:18} {f'{median_rates[name]:.4g} ({min(rates[name]):.4g} to {max(rates[name]):.4g})':36} {median_step_rates[name]:.4g}"
        )
    print(
        f"ratio to the better usual loop: {median_rates['residua'] / median_rates[best_usual_loop]:.2f}; of steps alone {median_step_rates['residua'] / median_step_rates[best_usual_loop]:.2f}"
    )
    print(
        f"share of the rate of a bf16 matrix product ({statistics.median(matmul_rates) / 1e9:.0f} G operations/s): {100 * matmul_share:.0f} %"
    )
    for part, milliseconds in milliseconds_by_part.items():
        print(f"  {part:24} {milliseconds:7.1f} ms a step")
    print(
        json.dumps(
            {
                "machine": detect_machine().describe_environment(),
                "cores": os.cpu_count(),
                "whole": median_rates,
                "steps": median_step_rates,
                "share": matmul_share,
            }
        )
    )


if __name__ == "__main__":
    main()
