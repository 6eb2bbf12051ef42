"""Evaluate a network on a split, with the batches shared by the ranks, and count its errors."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.image_views import ImageViews
from residua.config.memory import EVAL_BATCH
from residua.data.augment import normalise_pixels
from residua.data.image_views import average_view_scores, iterate_views
from residua.data.streamed_images import ImageSet
from residua.training.machine import Machine


@dataclass(frozen=True, slots=True)
class EvaluationScore:
    """Error counts and mean loss over a whole split; every image has the same weight."""

    count: int  # images
    wrong: int  # images whose most probable class is not their label
    wrong5: int  # images whose label is not among the five most probable classes
    loss: float  # mean cross-entropy in nats

    @property
    def error(self) -> float:
        """The fraction of misclassified images, in [0, 1]."""
        return self.wrong / self.count

    @property
    def top5_error(self) -> float:
        """The fraction of images whose label is not among the top five classes, in [0, 1]."""
        return self.wrong5 / self.count


def evaluate_network(
    net: nn.Module,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    views: ImageViews = "none",
    crop_size: tuple[int, int] | None = None,
) -> EvaluationScore:
    """Score `net` on uint8 images, shared by all ranks of the machine's group.

    The predictions for the `views` of each image are averaged; ten crops are of `crop_size`, the
    network's input.  An image with a probability that is
    not finite counts as wrong, and the loss is then nan.  `net` runs in evaluation mode, and
    returns to its previous mode.  Every rank must call this function, and every rank gets the score
    of all images.
    """
    counts = torch.zeros(2, dtype=torch.int64, device=machine.device)
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    for _, labels, log_probs in predict_own_batches(
        net, images, mean, std, machine, batch_size, views=views, crop_size=crop_size
    ):
        top5_hits = log_probs.topk(min(5, log_probs.shape[1])).indices == labels[:, None]
        top5_hits &= ~log_probs.isnan().any(1, keepdim=True)  # topk takes nan for the largest
        counts += torch.stack([(~top5_hits[:, 0]).sum(), (~top5_hits.any(1)).sum()])
        loss += F.cross_entropy(log_probs, labels, reduction="sum").double()
    wrong, wrong5 = machine.group.all_reduce_sum(counts).tolist()
    total_loss = machine.group.all_reduce_sum(loss).item()
    return EvaluationScore(len(images), wrong, wrong5, total_loss / len(images))


@torch.no_grad()
def predict_own_batches(
    net: nn.Module,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    views: ImageViews = "none",
    crop_size: tuple[int, int] | None = None,
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Predict the classes of this rank's share of `images`: every n-th batch, for n ranks.

    Yields, for each batch, its slice of the images, its labels (b,), and log probabilities
    (b, classes) in fp32.  `net` runs in evaluation mode, and returns to its previous mode at the
    end.
    """
    group, size = machine.group, crop_size or images.image_size
    first, step = group.rank * batch_size, group.world_size * batch_size
    slices = [slice(i, i + batch_size) for i in range(first, len(images), step)]
    with evaluation_mode(net), closing(images.iterate(slices)) as batches:
        for batch_slice, batch_anywhere in zip(slices, batches, strict=True):
            batch = batch_anywhere.to(machine.device)
            log_probs = batch_log_probabilities(net, batch.pixels, mean, std, machine, views, size)
            yield batch_slice, batch.labels, log_probs


@contextmanager
def evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put `net` into evaluation mode within the context, and restore the previous mode on exit."""
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def batch_log_probabilities(
    net: nn.Module,
    pixels: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    views: ImageViews,
    crop_size: tuple[int, int],
) -> Tensor:
    """Compute log probabilities (n, classes), in fp32, of uint8 images (n, c, h, w).

    The predictions for the `views` of each image are averaged; see `ImageViews`.  Ten crops are of
    `crop_size`, and other views of the images' size.
    """
    with machine.autocast():
        scores = [
            net(normalise_pixels(view, mean, std)).float()
            for view in iterate_views(pixels, views, crop_size)
        ]
    return average_view_scores(scores, views)
