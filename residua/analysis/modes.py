"""Context managers that put a network into a mode for a measurement and restore it afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from residua.net.activation_checkpoint import frozen_running_stats


@contextmanager
def restore_training_modes(net: nn.Module) -> Iterator[None]:
    """Restore `module.training` of every module of `net` on leaving the context.

    `net.train(mode)` would give all modules one mode, even if they had different ones before.
    """
    training_modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, was_training in training_modes:
            module.training = was_training


@contextmanager
def frozen_eval_mode(net: nn.Module) -> Iterator[None]:
    """Use evaluation mode, with no parameter requiring a gradient; restore both on leaving."""
    trainable_parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with restore_training_modes(net):
        net.eval().requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable_parameters:
                parameter.requires_grad_(True)


@contextmanager
def use_batch_statistics(net: nn.Module) -> Iterator[None]:
    """Let BN normalise by the batch, as in training, without updating its running statistics.

    All other modules are in evaluation mode.  All modes are restored on leaving the context.
    """
    with restore_training_modes(net):
        net.eval()
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.training = True
        with frozen_running_stats(net):
            yield
