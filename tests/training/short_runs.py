"""Short runs on digits, and readers of their results."""

import torch
from safetensors.torch import load_file

from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.config.serialize import apply_override
from residua.record import RunRecord
from residua.training.machine import Machine

CPU_FP32 = Machine(torch.device("cpu"), "fp32")


def make_digits_run(model="cifar-resnet8", steps=40, seed=0, **overrides):
    run_recipe = recipe("small").with_duration(steps=steps)
    for name, value in overrides.items():
        run_recipe = apply_override(run_recipe, f"{name.replace('__', '.')}={value}")
    return Run(network(model, input=(1, 8, 8)), "digits", run_recipe, seed)


def ignore_progress(progress, line):
    pass


def never_stop():
    return False


def stop_after(steps):
    """A `should_stop` that becomes true after `steps` steps, in place of Ctrl-C."""
    remaining_steps = iter(range(steps))
    return lambda: next(remaining_steps, None) is None


def load_last_weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def read_metrics_without_times(folder):
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in RunRecord(folder).read_metrics()
    ]
