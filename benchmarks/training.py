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
from residua.data.batches import Batches
from residua.data.read import Images, read
from residua.spec.dataset import dataset
from residua.spec.papers import network
from residua.spec.plan import plan
from residua.spec.recipe import Augment, recipe
from residua.train.evaluate import evaluate
from residua.train.machine import machine
from residua.train.step import Step

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
WORKERS = 0, 2
PARTS = {  # of a step, by what the profiler calls its operations
    "convolution, forward": ("aten::mkldnn_convolution",),
    "convolution, backward": ("aten::convolution_backward",),
    "BN, sum and ReLU": ("Normalise", "NormaliseBackward"),
    "sums of gradients": ("aten::add_",),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained, and the size of a round."""

    model: str
    batch: int
    steps: int
    evaluated: int  # images


SUBJECTS = {
    s.model: s
    for s in (Subject("cifar-resnet20", 128, 44, 640), Subject("resnet50", 16, 3, 32))  # an eighth of an epoch; a twentieth
}


def torchvision_here() -> None:
    """Import torchvision, also where its operators are not built for this PyTorch."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.peers import import_torchvision

    import_torchvision()


class Transformed(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """CIFAR-10's images one at a time, each transformed on its own."""

    def __init__(self, images: Images, mean: tuple[float, ...], std: tuple[float, ...], augment: bool) -> None:
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


def samples(subject: Subject, photographs: Path | None, train: bool) -> "torch.utils.data.Dataset[tuple[Tensor, int]]":
    if photographs is None:
        data = dataset("cifar10")
        return Transformed(read(data, "train" if train else "dev"), data.mean, data.std, train)
    torchvision_here()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()] if train else [v2.CenterCrop(224)]
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return ImageFolder(photographs / ("train" if train else "val"), v2.Compose([*crop, *tensor]))


def usual_loop(subject: Subject, photographs: Path | None, workers: int) -> tuple[Callable[[], None], Callable[[], None]]:
    if photographs is None:
        net: nn.Module = create_model(subject.model)
    else:
        torchvision_here()
        from torchvision.models import resnet50

        net = resnet50(num_classes=10)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    loader, held_out = [
        DataLoader(
            samples(subject, photographs, train), subject.batch, shuffle=train, num_workers=workers,
            multiprocessing_context="fork" if workers else None, persistent_workers=workers > 0,
        )
        for train in (True, False)
    ]  # fmt: skip

    def endless(loader: "DataLoader[tuple[Tensor, int]]") -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches, rest = endless(loader), endless(held_out)

    def step() -> None:
        pixels, labels = next(batches)
        loss = nn.functional.cross_entropy(net(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def evaluated() -> None:
        net.eval()
        with torch.inference_mode():
            for _ in range(subject.evaluated // subject.batch):
                pixels, labels = next(rest)
                (net(pixels).argmax(1) != labels).sum().item()
        net.train()

    return step, evaluated


def our_loop(subject: Subject, photographs: Path | None) -> tuple[Callable[[], None], Callable[[], None]]:
    here, chosen = machine(), recipe("he2015")
    if photographs is None:
        data = dataset("cifar10")
        images, held_out, mean, std = read(data, "train"), read(data, "dev"), data.mean, data.std
    else:
        images, held_out, mean, std = decoded(photographs / "train"), decoded(photographs / "val"), MEAN, STD
    batches = Batches(images, subject.batch, Augment(), mean, std, seed=0)
    net = here.place(create_model(subject.model, num_classes=10))
    step, number = Step(net, chosen.optimiser, here), count()
    rest = held_out[slice(0, subject.evaluated)]

    def one() -> None:
        step(*batches.at(next(number)), lr=0.01)

    return one, lambda: evaluate(net, rest, mean, std, here) and None


def decoded(folder: Path) -> Images:
    """Photographs of 224x224 pixels, once."""
    torchvision_here()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    found = ImageFolder(folder, v2.Compose([v2.CenterCrop(224), v2.PILToTensor()]))
    pixels, labels = zip(*found, strict=True)
    return Images(torch.stack(pixels), torch.tensor(labels))


LOOPS = {f"usual, {workers} workers": partial(usual_loop, workers=workers) for workers in WORKERS} | {"residua": our_loop}


def serve(name: str, subject: Subject, photographs: Path | None, wire: Connection) -> None:
    """In a process of its own: for each word received, do that and answer."""
    step, evaluated = LOOPS[name](subject, photographs)
    while word := wire.recv():
        if word == "round":
            begun = time.perf_counter()
            for _ in range(subject.steps):
                step()
            trained = time.perf_counter()
            evaluated()
            wire.send((trained - begun, time.perf_counter() - trained))
        else:
            wire.send(shares(step, 5))


def shares(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds of a step by kind of operation."""
    begun = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        whole = time.perf_counter() - begun
    found = defaultdict(float)
    for event in profiler.key_averages():
        for part, names in PARTS.items():
            if event.key in names:
                found[part] += event.self_cpu_time_total / 1000 / steps
    return {part: found[part] for part in PARTS} | {"all else": 1000 * whole / steps - sum(found.values())}


def product_rate() -> float:
    """Operations a second of a bf16 matrix product (4096, 1024) x (1024, 1024), the median of 20."""
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    seconds = []
    for _ in range(25):
        begun = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - begun)
    return float(2 * 4096 * 1024 * 1024 / statistics.median(seconds[5:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(SUBJECTS))
    parser.add_argument("--photographs", type=Path, help="a folder of train/CLASS/FILE and val/CLASS/FILE, of 224x224 pixels")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    subject = SUBJECTS[arguments.model]
    if (arguments.photographs is None) == (subject.model == "resnet50"):
        parser.error("resnet50 wants --photographs, and cifar-resnet20 none")
    context = multiprocessing.get_context("spawn")
    wires = {}
    for name in LOOPS:
        wires[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, subject, arguments.photographs, theirs)).start()
        theirs.close()  # so that the death of that process is seen here
    images = subject.steps * subject.batch
    rates: dict[str, list[float]] = {name: [] for name in LOOPS}
    stepping: dict[str, list[float]] = {name: [] for name in LOOPS}
    products = []
    for i in tqdm(range(arguments.rounds + 1), desc="rounds"):
        for name, wire in wires.items():
            wire.send("round")
            training, evaluating = wire.recv()
            if i:  # the first round warms up
                rates[name].append(images / (training + evaluating))
                stepping[name].append(images / training)
        products.append(product_rate())
    wires["residua"].send("shares")
    parts = wires["residua"].recv()
    for wire in wires.values():
        wire.send("")
    whole, steps = [{name: statistics.median(values) for name, values in found.items()} for found in (rates, stepping)]
    peer = max((name for name in LOOPS if name != "residua"), key=whole.__getitem__)
    planned = plan(network(subject.model))
    operations = 2 * (3 * planned.multiply_adds - planned.stem[0].multiply_adds)  # nobody asks for the gradient of images
    share = steps["residua"] * operations / statistics.median(products)
    size = f"{arguments.rounds} rounds of {subject.steps} steps and {subject.evaluated} images evaluated"
    print(f"{subject.model}, batch {subject.batch}: images/s of {size}")
    print(f"{'loop':18} {'whole: median (lowest to highest)':36} steps alone")
    for name in LOOPS:
        print(f"{name:18} {f'{whole[name]:.4g} ({min(rates[name]):.4g} to {max(rates[name]):.4g})':36} {steps[name]:.4g}")
    print(
        f"ratio to the better usual loop: {whole['residua'] / whole[peer]:.2f}; of steps alone {steps['residua'] / steps[peer]:.2f}"
    )
    print(
        f"share of the rate of a bf16 matrix product ({statistics.median(products) / 1e9:.0f} G operations/s): {100 * share:.0f} %"
    )
    for part, milliseconds in parts.items():
        print(f"  {part:24} {milliseconds:7.1f} ms a step")
    print(json.dumps({"machine": machine().describe(), "cores": os.cpu_count(), "whole": whole, "steps": steps, "share": share}))


if __name__ == "__main__":
    main()
