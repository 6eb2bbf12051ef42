"""How do nets of 1,202 layers and full width set out on CIFAR-10, in the 2015 design and by its controls (S10)?

The first steps of the paper's own schedule (0.01 for 400 steps, then 0.1; batches of 128) for some arms of `thousand_layers.py`;
a few hundred take one GPU two minutes, and a CPU hours.  Arms are trained side by side, a step of each in turn.

    RESIDUA_DATA=FOLDER python experiments/full_width.py --out FILE [--layers 1202] [--steps 600] [--arms original ...]
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from thousand_layers import STUDY
from torch import Tensor
from tqdm import tqdm

from residua.data.batches import batches_of
from residua.data.read import read
from residua.files import write_text
from residua.net.build import build
from residua.spec.dataset import dataset
from residua.spec.recipe import recipe
from residua.spec.run import Run
from residua.spec.study import Arm
from residua.train.machine import Machine, machine
from residua.train.step import Step

DATA, RECIPE = dataset("cifar10"), recipe("he2015")
ARMS = ("original", "no-ReLU-after-addition", "zero-initialised", "full pre-activation")
LAST = 50  # steps over which an error is taken


def learning(arm: Arm, layers: int, here: Machine) -> Iterator[tuple[Tensor, Tensor]]:
    """Loss and wrong answers of each step, which is made on a stream of its own where there are streams."""
    stream = torch.cuda.Stream() if here.device.type == "cuda" else None
    mine = lambda: torch.cuda.stream(stream) if stream else nullcontext()  # noqa: E731
    run = Run(arm.network(layers), DATA.name, RECIPE, seed=0)
    with mine():
        images = read(DATA, "train").to(here.device)
        net = here.place(build(run.network, run.seed)).train()
        step, batches = Step(net, RECIPE.optimiser, here), batches_of(images, RECIPE, DATA, DATA.mean, DATA.std, run.seed, (0, 1))
    number = 0
    while True:
        with mine():
            torch.manual_seed(number)
            seen = step(*batches.at(number), RECIPE.lr(number, RECIPE.steps))
        yield seen
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=1202)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end then, with fewer steps")
    parser.add_argument("--arms", nargs="+", choices=[arm.title for arm in STUDY.arms], default=ARMS)
    arguments = parser.parse_args()
    begun, here = time.monotonic(), machine()
    arms = {arm.title: learning(arm, arguments.layers, here) for arm in STUDY.arms if arm.title in arguments.arms}
    seen: dict[str, list[Tensor]] = {title: [] for title in arms}
    for number in tqdm(range(arguments.steps), mininterval=5):
        for title, steps in arms.items():
            seen[title].append(torch.stack([x.float() for x in next(steps)]))
        if number % 10 == 9 and here.device.type == "cuda":
            torch.cuda.synchronize()  # no stream gets far ahead of the others
        if time.monotonic() - begun > arguments.seconds:
            break
    found = {}
    for title, both in seen.items():
        losses, wrong = torch.stack(both).cpu().unbind(1)
        errors = (wrong / RECIPE.batch_size).unfold(0, min(LAST, len(wrong)), 1).mean(1)
        below = (errors < 0.8).nonzero()
        found[title] = {
            "training_error": errors[-1].item(),  # of the last LAST steps
            "below_80_percent_at": int(below[0]) + min(LAST, len(wrong)) if len(below) else None,
            "losses": [round(loss, 4) for loss in losses.tolist()],
            "wrong": wrong.int().tolist(),  # of each batch
        }
        print(f"{title:28} {100 * errors[-1]:5.1f} %, below 80 % at {found[title]['below_80_percent_at']}")
    record = {"machine": here.describe(), "layers": arguments.layers, "steps": len(losses), "arms": found}
    write_text(arguments.out, json.dumps(record) + "\n")
    print(json.dumps({"seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main()
