"""Time of one training step of cifar-resnet20 on CIFAR-10, data included: this package against a plain loop.

The plain loop is what most code does: a DataLoader over per-sample transforms (pad, crop, flip, normalise), fp32, NCHW, one
SGD step a batch; its worker count is the better of those tried.  Each loop has a process of its own and they take turns, so that
a change of the machine's speed meets all; the ratio of the medians is what counts.

    RESIDUA_DATA=FOLDER python benchmarks/training_step.py [--rounds 7] [--steps 12]
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from residua import create_model
from residua.data.batches import Batches
from residua.data.read import Images, read
from residua.spec.dataset import Dataset, dataset
from residua.spec.recipe import recipe
from residua.train.machine import machine
from residua.train.step import Step

BATCH = 128


class PerSample(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images one at a time, each transformed on its own."""

    def __init__(self, images: Images, data: Dataset) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        padded = np.pad(self.pixels[i], ((4, 4), (4, 4), (0, 0)))
        y, x = self.random.integers(0, 9, 2)
        image = padded[y : y + 32, x : x + 32]
        if self.random.random() < 0.5:
            image = image[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std, self.labels[i]


def plain_loop(images: Images, data: Dataset, workers: int) -> Callable[[], None]:
    net = create_model("cifar-resnet20")
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(PerSample(images, data), BATCH, shuffle=True, num_workers=workers, drop_last=True)

    def endless() -> Iterator[list[Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        pixels, labels = next(batches)
        loss = nn.functional.cross_entropy(net(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_loop(images: Images, data: Dataset) -> Callable[[], None]:
    here, chosen = machine(), recipe("he2015")
    batches = Batches(images, BATCH, chosen.augment, data.mean, data.std, seed=0)
    step = Step(here.place(create_model("cifar-resnet20")), chosen.optimiser, here)
    number = count()

    def one() -> None:
        step(*batches.at(next(number)), lr=0.1)

    return one


LOOPS = {
    "plain, 0 workers": partial(plain_loop, workers=0),
    "plain, 2 workers": partial(plain_loop, workers=2),
    "residua": our_loop,
}


def serve(name: str, wire: Connection) -> None:
    """In a process of its own: for each number received, take so many steps and send the seconds they took."""
    data = dataset("cifar10")
    step = LOOPS[name](read(data, "train"), data)
    while steps := wire.recv():
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        wire.send(time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help="steps in a round")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    wires = {}
    for name in LOOPS:
        wires[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, theirs)).start()
    rates: dict[str, list[float]] = {name: [] for name in LOOPS}
    for i in range(arguments.rounds + 1):
        for name, wire in wires.items():
            wire.send(arguments.steps)
            seconds = wire.recv()
            if i:  # the first round warms up
                rates[name].append(arguments.steps * BATCH / seconds)
    for wire in wires.values():
        wire.send(0)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peer = max(medians["plain, 0 workers"], medians["plain, 2 workers"])
    print(f"{'loop':18} images/s: median (lowest to highest) of {arguments.rounds} rounds of {arguments.steps} steps")
    for name, values in rates.items():
        print(f"{name:18} {medians[name]:7.0f} ({min(values):.0f} to {max(values):.0f})")
    print(f"ratio to the better plain loop: {medians['residua'] / peer:.2f}")
    print(json.dumps({"machine": machine().describe(), "medians": medians, "ratio": medians["residua"] / peer}))


if __name__ == "__main__":
    main()
