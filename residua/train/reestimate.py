"""Training error as it should be compared: with BN statistics of the final weights.

Running averages lag behind the weights, in networks of 1,000 layers so far that the error they give says little.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from residua.data.augment import normalise
from residua.data.read import Images
from residua.net.freeze import Still
from residua.spec.memory import EVALUATED
from residua.train.evaluate import Score, evaluate
from residua.train.machine import Machine

MOST = 5_000  # images that statistics are estimated over


def norms(net: nn.Module) -> list[BatchNorm]:
    """Its BN modules whose running statistics move: those that are held still keep theirs."""
    moving = [module for module in net.modules() if isinstance(module, BatchNorm) and not isinstance(module, Still)]
    return [norm for norm in moving if norm.track_running_stats]


def reestimated_score(net: nn.Module, images: Images, mean: tuple[float, ...], std: tuple[float, ...], machine: Machine) -> Score:
    """The score of `net` on its training images, in evaluation mode, with BN statistics of up to MOST of them as they are now.

    `net` is left as it was, to the bit.
    """
    with reestimated(net, images, mean, std, machine):
        return evaluate(net, images, mean, std, machine)


@contextmanager
def reestimated(
    net: nn.Module, images: Images, mean: tuple[float, ...], std: tuple[float, ...], machine: Machine
) -> Iterator[None]:
    """Within it, the running statistics of `net` are means over batches of equal size of every k-th image, not augmented."""
    found, was_training = norms(net), net.training
    before = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in found]
    chosen = images[slice(None, None, -(-len(images) // MOST))]
    parts = -(-len(chosen) // EVALUATED)
    try:
        net.eval()  # what is dropped while training stays
        for norm in found:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # means over all batches
        with torch.no_grad(), machine.autocast():
            for pixels in chosen.pixels.tensor_split(parts):
                net(normalise(pixels.to(machine.device), mean, std))
        net.eval()
        yield
    finally:
        for norm, (momentum, buffers) in zip(found, before, strict=True):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        net.train(was_training)
