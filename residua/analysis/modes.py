"""Context managers that set a network's mode for a measurement, then restore its earlier mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from residua.net.activation_checkpoint import frozen_running_stats
from residua.net.training_modes import restore_training_modes


@contextmanager
def frozen_eval_mode(net: nn.Module) -> Iterator[None]:
    """Put `net` in evaluation mode and freeze its parameters; undo both on leaving the context."""
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
    """Let BN normalise by batch statistics, without updating its running statistics.

    All other modules are in evaluation mode.  On leaving the context, the earlier mode of every
    module is restored.
    """
    with restore_training_modes(net):
        net.eval()
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.training = True
        with frozen_running_stats(net):
            yield
