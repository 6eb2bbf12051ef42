"""Freeze a network except its last layer, or only its BN statistics."""

from typing import Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from residua.net.build import ResidualNetwork
from residua.net.swap_batchnorm import swap_batchnorms


class FrozenStatsBatchNorm(nn.BatchNorm2d):
    """A BN that always normalises by its running statistics and never updates them.

    It stays in evaluation mode even when the network is in training mode.
    """

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions, since this class replaces both BatchNorm1d and 2d."""


def freeze_batchnorm_statistics(net: nn.Module) -> None:
    """Make every BN of `net`, in place, normalise by its running statistics and never update them.

    Scales and shifts are still trained.  The keys of the state_dict stay the same.
    """
    swap_batchnorms(net, FrozenStatsBatchNorm)


def freeze_backbone(net: ResidualNetwork) -> None:
    """Freeze `net` in place, including its BN statistics, but not its last layer.

    The keys of the state_dict stay the same.
    """
    net.requires_grad_(False)
    net.head[-1].requires_grad_(True)
    freeze_batchnorm_statistics(net)


def list_unfrozen_batchnorms(net: nn.Module) -> list[BatchNorm]:
    """List the BN modules of `net` that update running statistics, i.e. all but the frozen ones."""
    unfrozen = [
        module
        for module in net.modules()
        if isinstance(module, BatchNorm) and not isinstance(module, FrozenStatsBatchNorm)
    ]
    return [norm for norm in unfrozen if norm.track_running_stats]


def last_layer_parameters(net: nn.Module) -> set[Tensor]:
    """Return the parameters of a residual network's last layer, or all of another module."""
    return set(net.head[-1].parameters() if isinstance(net, ResidualNetwork) else net.parameters())
