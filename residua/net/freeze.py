"""A network's body held still, so that only its head learns."""

from typing import Self

from torch import Tensor, nn

from residua.net.build import ResidualNetwork


class FrozenBatchNorm(nn.BatchNorm2d):
    """A BN that always normalises by its running statistics and never moves them, in whatever mode the network is."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def _check_input_dim(self, input: Tensor) -> None:
        """Images or vectors alike."""


def freeze_backbone(net: ResidualNetwork) -> None:
    """Hold all of `net` but its last layer, in place: no gradient, and BN in evaluation mode for good; names stay."""
    net.requires_grad_(False)
    net.head[-1].requires_grad_(True)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
                setattr(module, name, freeze_batchnorm(child))


def freeze_batchnorm(norm: nn.BatchNorm2d | nn.BatchNorm1d) -> FrozenBatchNorm:
    """The same, still."""
    frozen = FrozenBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    frozen._parameters, frozen._buffers, frozen.training = norm._parameters, norm._buffers, False
    return frozen


def last_layer_parameters(net: nn.Module) -> set[Tensor]:
    """The parameters of its last layer: all it has where it is no residual network."""
    return set(net.head[-1].parameters() if isinstance(net, ResidualNetwork) else net.parameters())
