"""Short runs on digits, and what they leave."""

import torch
from safetensors.torch import load_file

from residua.record import Record
from residua.spec.papers import network
from residua.spec.recipe import recipe
from residua.spec.run import Run
from residua.spec.text import overridden
from residua.train.machine import Machine

CPU = Machine(torch.device("cpu"), "fp32")


def digits_run(model="cifar-resnet8", steps=40, seed=0, **changes):
    chosen = recipe("small").lasting(steps=steps)
    for name, value in changes.items():
        chosen = overridden(chosen, f"{name.replace('__', '.')}={value}")
    return Run(network(model, input=(1, 8, 8)), "digits", chosen, seed)


def silent(progress, line):
    pass


def never():
    return False


def after(steps):
    """In place of Ctrl-C: asks to stop after so many steps."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


def weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def lines(folder):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in Record(folder).lines()]
