"""Restore the modes, training or evaluation, of the modules of a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restore_training_modes(net: nn.Module) -> Iterator[None]:
    """Restore `module.training` of every module of `net` on leaving the context.

    Calling `net.train(mode)` instead would set all modules to the same mode, even if their modes
    differed before.
    """
    training_modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, was_training in training_modes:
            module.training = was_training
