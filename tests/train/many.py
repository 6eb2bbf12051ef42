"""What test_parallel.py starts under torchrun: cases that several processes compute together, and a run that is killed.

torchrun ... many.py together FOLDER    all cases, each leaving a file or a run of its name in FOLDER
torchrun ... many.py killed ...         residua's own command line, of which process 1 is killed once, at step 12
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from residua.cli.main import leave, main
from residua.data.batches import Batches
from residua.data.read import read
from residua.errors import DataError, Interrupted
from residua.net.build import build
from residua.spec.dataset import dataset
from residua.spec.network import Drop
from residua.spec.papers import network
from residua.spec.recipe import Augment, Sgd, recipe
from residua.spec.run import Run
from residua.train import loop
from residua.train.evaluate import evaluate
from residua.train.machine import Machine
from residua.train.parallel import joined
from residua.train.run import train
from residua.train.step import Step
from residua.train.synced import synchronise

DATA, CPU = dataset("digits"), torch.device("cpu")
PLAIN, PREACT, CONNECTED = [network(name, input=(1, 8, 8)) for name in ("cifar-resnet8", "cifar-preresnet8", "fc-resnet10")]
DROPPED = replace(PLAIN, unit=replace(PLAIN.unit, join=Drop(shortcut=0.1, branch=0.3)))
CASES = {  # a network, and the parts of its batch
    "batch": (PLAIN, 1),
    "batch, pre-activation": (PREACT, 1),
    "batch, dropped": (DROPPED, 1),
    "batch, fully connected": (CONNECTED, 1),
    "half batches, dropped": (DROPPED, 2),
    "eighths of a batch, dropped": (DROPPED, 8),
}


def silent(progress, line):
    pass


def never():
    return False


def small(parts):
    return Run(DROPPED, "digits", replace(recipe("small"), parts=parts).lasting(steps=12))


def exact(case, group, steps=6):
    """Losses, wrong answers and the state of a network after some steps in float64."""
    (spec, parts), machine = CASES[case], Machine(CPU, "fp32", group=group)
    net = synchronise(build(spec).double(), parts, machine)
    step = Step(net, Sgd(), machine, parts)
    stream = Batches(read(DATA, "train"), 64, Augment(pad=1), DATA.mean, DATA.std, 0, (group.rank, group.size))
    seen = []
    for i in range(steps):
        torch.manual_seed(i)
        images, labels = stream.at(i)
        seen.append([float(x) for x in step(images.double(), labels, 0.02)])
    return {"seen": torch.tensor(seen), **net.state_dict()}


def scored(group):
    """The score of an untrained network on batches of 50, of which the last is partial."""
    net = build(PLAIN).train()
    return evaluate(net, read(DATA, "test"), DATA.mean, DATA.std, Machine(CPU, "fp32", group=group), 50)


def together(folder, group):
    fp32, bf16 = [Machine(CPU, precision, group=group) for precision in ("fp32", "bf16")]
    for case in CASES:
        torch.save(exact(case, group), folder / f"{case}.pt")
    score = scored(group)
    torch.save([score.count, score.wrong, score.wrong5, score.loss], folder / "score.pt")
    group.first_here(lambda: note(folder / "first", group.rank))
    train(small(4), folder / "bf16 parts", bf16, tell=silent, stop=never)
    train(small(1), folder / "bf16 batch", bf16, tell=silent, stop=never)
    calls = iter(range(100))
    try:  # process 1 alone is asked to stop
        train(small(1), folder / "stopped", fp32, tell=silent, stop=lambda: group.rank == 1 and next(calls) == 5)
    except Interrupted as stopped:
        note(folder / "stopped at", f"{stopped}\n")
    train(small(1), folder / "from one", fp32, resume=True, tell=silent, stop=never)
    if group.rank == 1:
        raise DataError("the disk of this machine is gone")
    group.sum(torch.zeros(()))


def note(path, text):
    with open(path, "a") as file:
        file.write(str(text))


def killed(arguments):
    """`residua`; process 1 dies at step 12, unless torchrun has started it again.  Says at which steps there was progress."""
    add, steps = loop.Progress.add, []

    def add_or_die(progress, loss, wrong):
        steps.append(progress.step)
        add(progress, loss, wrong)
        if progress.step == 12 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    loop.Progress.add = add_or_die
    code = main(arguments)
    print(f"steps {steps[0]} to {steps[-1]}")
    return code


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "killed":
        leave(killed(rest))
    with joined() as group:
        together(Path(rest[0]), group)
