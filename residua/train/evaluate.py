"""How often a network is wrong."""

from dataclasses import dataclass
from math import log, prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.data.augment import normalise
from residua.data.read import Images
from residua.errors import UsageError
from residua.net.folder import read_config
from residua.net.hub import folder_of
from residua.record import Record
from residua.spec.dataset import Dataset
from residua.spec.memory import EVALUATED
from residua.spec.model import ModelConfig
from residua.train.machine import Machine


@dataclass(frozen=True, slots=True)
class Score:
    """Counts over a whole split: each image once, whatever the batches."""

    count: int
    wrong: int
    wrong5: int  # the right class is not among the five likeliest
    loss: float  # mean cross-entropy, nats

    @property
    def error(self) -> float:
        return self.wrong / self.count

    @property
    def top5_error(self) -> float:
        return self.wrong5 / self.count


@torch.no_grad()
def evaluate(
    net: nn.Module,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    batch_size: int = EVALUATED,
    *,
    mirror: bool = False,
) -> Score:
    """The score of `net` on uint8 images, in evaluation mode; the net is left in the mode it was in.

    With `mirror`, probabilities are the mean of those of an image and of its mirror image.  Of several processes each takes every
    n-th batch, and all get the score of all images.
    """
    was_training, group = net.training, machine.group
    net.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=machine.device)
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    for start in range(group.rank * batch_size, len(images), group.size * batch_size):
        batch = images[slice(start, start + batch_size)].to(machine.device)
        scores = log_probabilities(net, batch.pixels, mean, std, machine, mirror)
        best = scores.topk(min(5, scores.shape[1])).indices == batch.labels[:, None]
        counts += torch.stack([(~best[:, 0]).sum(), (~best.any(1)).sum()])
        loss += F.cross_entropy(scores, batch.labels, reduction="sum").double()
    net.train(was_training)
    wrong, wrong5 = group.sum(counts).tolist()
    return Score(len(images), wrong, wrong5, group.sum(loss).item() / len(images))


def log_probabilities(
    net: nn.Module, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], machine: Machine, mirror: bool
) -> Tensor:
    """log p (n, classes) of uint8 images (n, c, h, w), fp32; with `mirror`, p is the mean of an image's and its mirror image's."""
    x = normalise(pixels, mean, std)
    with machine.autocast():
        views = [net(view).float().log_softmax(1) for view in ([x, x.flip(3)] if mirror else [x])]
    return torch.stack(views).logsumexp(0) - log(len(views))


def checked_for(data: Dataset, folder: Path) -> ModelConfig:
    """The config of a model folder that knows the classes of `data` and takes its images; UsageError otherwise."""
    config = read_config(folder)
    if config.classes != data.classes:
        ours, theirs = [
            ", ".join(c for c in a if c not in b) or "the same"
            for a, b in ((config.classes, data.classes), (data.classes, config.classes))
        ]
        raise UsageError(f"{folder} knows other classes than {data.name}: {ours} there, {theirs} here")
    if config.network.input not in (data.input, (prod(data.input),)):
        raise UsageError(f"{folder} takes images of {config.network.input}, but those of {data.name} are {data.input}")
    return config


def model_folder(folder: Path) -> Path:
    """`folder` itself, or the last network's folder where it holds a run, or what is OWNER/NAME on the Hugging Face hub."""
    folder = folder_of(folder)
    record = Record(folder)
    if not record.head.exists():
        return folder
    if record.read()["result"] is None:
        raise UsageError(f"the run in {folder} is not finished: go on with --resume, or evaluate {folder / 'best'}")
    return folder / "last"
