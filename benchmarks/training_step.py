"""Time of one training step of cifar-resnet20 on CIFAR-10, data included: this package against a plain loop.

The plain loop is what most code does: a DataLoader over per-sample transforms (pad, crop, flip, normalise), fp32, NCHW, one
SGD step a batch; its worker count is the better of those tried.  Both run in turn in one process, so that a change of the
machine's speed meets both; the ratio of the medians is what counts.

    RESIDUA_DATA=FOLDER python benchmarks/training_step.py [--rounds 7] [--steps 12]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="steps in a round")
    arguments = parser.parse_args()
    data = dataset("cifar10")
    images = read(data, "train")
    loops = {
        "plain, 0 workers": plain_loop(images, data, 0),
        "plain, 2 workers": plain_loop(images, data, 2),
        "residua": our_loop(images, data),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for i in range(arguments.rounds + 1):
        for name, step in loops.items():
            begun = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            if i:  # the first round warms up
                rates[name].append(arguments.steps * BATCH / (time.perf_counter() - begun))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peer = max(value for name, value in medians.items() if name.startswith("plain"))
    print(f"{'loop':18} images/s: median (lowest to highest) of {arguments.rounds} rounds of {arguments.steps} steps")
    for name, values in rates.items():
        print(f"{name:18} {medians[name]:7.0f} ({min(values):.0f} to {max(values):.0f})")
    print(f"ratio to the better plain loop: {medians['residua'] / peer:.2f}")
    print(json.dumps({"machine": machine().describe(), "medians": medians, "ratio": medians["residua"] / peer}))


if __name__ == "__main__":
    main()
