"""Set the stem's weights from training images, by the eigenvectors of their patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.registry import implementation_of, register
from residua.config.stages import Whitening
from residua.net.build import ResidualNetwork

COVARIANCE_BATCH = 500  # images whose patches are in memory at once


def count_start_images(net: nn.Module) -> int:
    """Return the number of training images that set the stem's weights; 0 if none do."""
    starts = (
        [layer.stem_start for layer in net.plan.stem] if isinstance(net, ResidualNetwork) else []
    )
    return max((start.image_count for start in starts if start is not None), default=0)


def set_stem_from_images(net: nn.Module, images: Tensor) -> None:
    """Set the weights of the stem, in place, from normalised training images (n, c, h, w).

    The stem's `start` says how.  The images should be the first `count_start_images(net)` of the
    training images.  A network whose stem needs no images stays as it is.
    """
    if not isinstance(net, ResidualNetwork):
        return
    for module, layer in zip(net.stem, net.plan.stem, strict=True):
        if layer.stem_start is not None:
            implementation_of(layer.stem_start)(layer.stem_start, module, images)


@torch.no_grad()
def whiten_patches(start: Whitening, layer: nn.Conv2d, images: Tensor) -> None:
    """Make the filters of `layer` whiten the patches of images (n, c, h, w); see `Whitening`.

    The covariance is summed in fp64.  It is not centered, as in airbench.  A layer of fewer filters
    than a patch has values gets the eigenvectors of the largest eigenvalues.
    """
    side, half = layer.kernel_size[0], len(layer.weight) // 2
    size = images.shape[1] * side**2
    total = torch.zeros(size, size, dtype=torch.float64, device=images.device)
    count = 0
    for batch in torch.split(images, COVARIANCE_BATCH):
        patches = F.unfold(batch.double(), side).transpose(1, 2).reshape(-1, size)
        total += patches.T @ patches
        count += len(patches)
    # on the CPU, because the solver of a GPU takes longer to load than to solve
    values, vectors = torch.linalg.eigh(total.cpu() / count)
    filters = (vectors / (values + start.eps).sqrt()).T.flip(0)[:half]
    filters = filters.reshape(half, images.shape[1], side, side)
    layer.weight.copy_(torch.cat([filters, -filters]))


register(Whitening, implementation=whiten_patches)
