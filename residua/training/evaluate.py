"""How often a network is wrong."""

from dataclasses import dataclass
from math import log, prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.dataset import Dataset
from residua.config.memory import EVAL_BATCH
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.read import Images
from residua.errors import UsageError
from residua.net.hub import find_or_download_model_folder
from residua.net.model_folder import read_model_config
from residua.record import RunRecord
from residua.training.machine import Machine


@dataclass(frozen=True, slots=True)
class EvaluationScore:
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
def evaluate_network(
    net: nn.Module,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    mirror: bool = False,
) -> EvaluationScore:
    """The score of `net` on uint8 images, in evaluation mode; the net is left in the mode it was in.

    With `mirror`, probabilities are the mean of those of an image and of its mirror image.  Of several processes each takes every
    n-th batch, and all get the score of all images.
    """
    was_training, group = net.training, machine.group
    net.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=machine.device)
    loss = torch.zeros((), dtype=torch.float64, device=machine.device)
    for start in range(group.rank * batch_size, len(images), group.world_size * batch_size):
        batch = images[slice(start, start + batch_size)].to(machine.device)
        log_probs = batch_log_probabilities(net, batch.pixels, mean, std, machine, mirror)
        top5_hits = log_probs.topk(min(5, log_probs.shape[1])).indices == batch.labels[:, None]
        counts += torch.stack([(~top5_hits[:, 0]).sum(), (~top5_hits.any(1)).sum()])
        loss += F.cross_entropy(log_probs, batch.labels, reduction="sum").double()
    net.train(was_training)
    wrong, wrong5 = group.all_reduce_sum(counts).tolist()
    return EvaluationScore(
        len(images), wrong, wrong5, group.all_reduce_sum(loss).item() / len(images)
    )


def batch_log_probabilities(
    net: nn.Module,
    pixels: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    machine: Machine,
    mirror: bool,
) -> Tensor:
    """log p (n, classes) of uint8 images (n, c, h, w), fp32; with `mirror`, p is the mean of an image's and its mirror image's."""
    x = normalise_pixels(pixels, mean, std)
    with machine.autocast():
        views = [net(view).float().log_softmax(1) for view in ([x, x.flip(3)] if mirror else [x])]
    return torch.stack(views).logsumexp(0) - log(len(views))


def read_compatible_config(data: Dataset, folder: Path) -> ModelConfig:
    """The config of a model folder that knows the classes of `data` and takes its images; UsageError otherwise."""
    config = read_model_config(folder)
    if config.classes != data.classes:
        ours, theirs = [
            ", ".join(c for c in a if c not in b) or "the same"
            for a, b in ((config.classes, data.classes), (data.classes, config.classes))
        ]
        raise UsageError(
            f"{folder} knows other classes than {data.name}: {ours} there, {theirs} here"
        )
    if config.network.input not in (data.input, (prod(data.input),)):
        raise UsageError(
            f"{folder} takes images of {config.network.input}, but those of {data.name} are {data.input}"
        )
    return config


def find_model_folder(run_or_model: Path) -> Path:
    """`folder` itself, or the last network's folder where it holds a run, or what is OWNER/NAME on the Hugging Face hub."""
    run_or_model = find_or_download_model_folder(run_or_model)
    record = RunRecord(run_or_model)
    if not record.run_json_path.exists():
        return run_or_model
    if record.read_run_json()["result"] is None:
        raise UsageError(
            f"the run in {run_or_model} is not finished: go on with --resume, or evaluate {run_or_model / 'best'}"
        )
    return run_or_model / "last"
