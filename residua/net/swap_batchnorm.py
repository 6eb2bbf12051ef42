"""Replace the BN modules of a network by another kind of BN with the same tensors."""

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


def swap_batchnorms(
    net: nn.Module,
    make_norm: Callable[..., BatchNorm],
    except_classes: tuple[type[BatchNorm], ...] = (),
) -> None:
    """Replace every BN of `net`, in place; state_dict keys, parameters and buffers do not change.

    Those of the `except_classes` are not replaced.

    `make_norm(num_features, eps, momentum, affine, track_running_stats)` must return the new BN.
    The new BN is then put in the mode (training or evaluation) of the BN that it replaces.
    """
    for module in list(net.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, BatchNorm) and not isinstance(norm, except_classes):
                setattr(module, name, make_sharing_norm(norm, make_norm))


def make_sharing_norm(norm: BatchNorm, make_norm: Callable[..., BatchNorm]) -> BatchNorm:
    """Make a BN by `make_norm`, with the mode, the parameters and the buffers of `norm`."""
    sharing_norm = make_norm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    # the dictionaries themselves are shared, so that both modules see a tensor replaced later
    sharing_norm._parameters, sharing_norm._buffers = norm._parameters, norm._buffers
    return sharing_norm.train(norm.training)
