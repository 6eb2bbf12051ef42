"""BN statistics recalibrated for the final weights: the training error with them, or to keep.

Running averages lag behind the weights.  In networks of 1,000 layers they lag so far that an error
measured with them is of little use.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from residua.config.memory import EVAL_BATCH
from residua.data.augment import normalise_pixels
from residua.data.streamed_images import ImageSet
from residua.net.freeze import list_unfrozen_batchnorms
from residua.net.training_modes import restore_training_modes
from residua.training.evaluate import EvaluationScore, evaluate_network
from residua.training.machine import Machine

MAX_BN_IMAGES = 5_000  # images from which statistics are estimated


def score_with_recalibrated_bn(
    net: nn.Module,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
) -> EvaluationScore:
    """Score `net` on its training images, with BN statistics recomputed for its current weights.

    The statistics are estimated from at most `MAX_BN_IMAGES` images.  Afterwards the state of `net`
    is restored bit-identically.
    """
    with recalibrated_batchnorm(net, images, mean, std, machine):
        return evaluate_network(net, images, mean, std, machine)


@contextmanager
def recalibrated_batchnorm(
    net: nn.Module,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
) -> Iterator[None]:
    """Make `net` use recalibrated BN statistics within the context, not its running averages.

    The state of `net` is restored on exit.
    """
    batchnorms, was_training = list_unfrozen_batchnorms(net), net.training
    saved_buffers = [
        {name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in batchnorms
    ]
    try:
        recalibrate_batchnorm(net, images, mean, std, machine)
        net.eval()
        yield
    finally:
        for norm, buffers in zip(batchnorms, saved_buffers, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        net.train(was_training)


def recalibrate_batchnorm(
    net: nn.Module,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
) -> None:
    """Recompute the BN statistics of `net`, in place, from at most `MAX_BN_IMAGES` images.

    Recalibrated statistics are averages of batch statistics.  The batches are of nearly equal size
    and hold every k-th image, without augmentation.  The mode of `net` is kept.
    """
    batchnorms = list_unfrozen_batchnorms(net)
    momenta = [norm.momentum for norm in batchnorms]
    sampled_positions = torch.arange(0, len(images), -(-len(images) // MAX_BN_IMAGES))
    batch_count = -(-len(sampled_positions) // EVAL_BATCH)
    with restore_training_modes(net):
        try:
            net.eval()  # no dropout and no drop-path
            for norm in batchnorms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean over all batches
            with torch.no_grad(), machine.autocast():
                for batch in images.iterate(sampled_positions.tensor_split(batch_count)):
                    net(normalise_pixels(batch.pixels.to(machine.device), mean, std))
        finally:
            for norm, momentum in zip(batchnorms, momenta, strict=True):
                norm.momentum = momentum
