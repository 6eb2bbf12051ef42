"""All that an evaluation shows: every image's scores, and what is counted from them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from residua.data.read import Images, Seen, Split, seen
from residua.data.thumbnail import thumbnail
from residua.errors import UsageError
from residua.files import write_json
from residua.net.folder import from_pretrained
from residua.spec.dataset import Dataset
from residua.spec.evaluation import Evaluation, Mistake, wilson
from residua.spec.memory import EVALUATED
from residua.spec.model import ModelConfig
from residua.spec.text import to_json
from residua.train.calibration import Labels, Scores, calibration, fitted, fitted_by_halves
from residua.train.evaluate import checked_for, log_probabilities, model_folder
from residua.train.machine import Machine

SHOWN = 24  # of the mistakes
"""Our choice."""


@torch.no_grad()
def scores(
    net: nn.Module, images: Images, config: ModelConfig, machine: Machine, batch_size: int = EVALUATED, *, mirror: bool = False
) -> Tensor:
    """log p (n, classes) of uint8 images, fp32, in their order; the net is left in the mode it was in.

    Of several processes each takes every n-th batch, and all get the scores of all images.
    """
    was_training, group = net.training, machine.group
    net.eval()
    found = torch.zeros(len(images), len(config.classes), device=machine.device)
    for start in range(group.rank * batch_size, len(images), group.size * batch_size):
        batch = images[slice(start, start + batch_size)].to(machine.device)
        found[start : start + batch_size] = log_probabilities(net, batch.pixels, config.mean, config.std, machine, mirror)
    net.train(was_training)
    return group.sum(found).cpu()


def assess_folder(
    folder: Path,
    data: Dataset,
    split: Split | Literal["all"],
    machine: Machine,
    data_dir: Path | None = None,
    *,
    mirror: bool = False,
    calibrate: bool = False,
) -> Evaluation:
    """A model folder, or a run's last network, on a data set of the same classes and image shape.

    The preprocessing is the model folder's own.  `calibrate` fits a temperature on the dev split and stores it there.
    Raises UsageError for other classes or shapes, where a mirror image may be of another class, or where the dev split would be
    both fitted on and reported; RecordError, DataError.
    """
    if mirror and not data.flips:
        raise UsageError(f"a mirror image in {data.name} may be of another class: leave --mirror out")
    if calibrate and split in ("dev", "all"):
        raise UsageError("--calibrate fits on the dev split, which then says nothing of the fit: report another --split")
    folder = model_folder(folder)
    config = checked_for(data, folder)
    net = machine.place(from_pretrained(folder))

    def looked_at(split: Split | Literal["all"]) -> tuple[Seen, Scores]:
        found = machine.group.first_here(partial(seen, data, split, config, data_dir))
        return found, scores(net, found.images, config, machine, mirror=mirror).numpy()

    if calibrate:
        dev, values = looked_at("dev")
        config = replace(config, temperature=fitted(values, dev.images.labels.numpy()))
        if machine.group.leads:
            write_json(folder / "config.json", to_json(config))
    images, values = looked_at(split)
    found = assess(images, values, config, "dev" if calibrate else "folder")
    return replace(
        found, dataset=data.name, split=split, mirror=mirror,
        environment=tuple((name, str(value)) for name, value in machine.describe().items()),
    )  # fmt: skip


def assess(seen: Seen, scores: Scores, config: ModelConfig, source: Literal["dev", "folder"] = "folder") -> Evaluation:
    """What `scores` (n, classes) say of images; `source` is where the config's temperature is from.

    Where it has none, each half of the images is scaled by the temperature of the other half.
    """
    labels = seen.images.labels.numpy()
    count, order = len(labels), np.argsort(-scores, axis=1, kind="stable")[:, :5]
    hits = order == labels[:, None]
    wrong, wrong5 = int((~hits[:, 0]).sum()), int((~hits.any(1)).sum())
    confusion = confusion_matrix(labels, order[:, 0], labels=range(len(config.classes))).tolist()
    halves = config.temperature == 1
    temperatures = fitted_by_halves(scores, labels) if halves else np.full((count, 1), config.temperature, np.float32)
    own = calibration(scores, labels)
    return Evaluation(
        model=config.network.name, dataset=config.dataset, split="", mirror=False, classes=config.classes,
        count=count, wrong=wrong, wrong5=wrong5, loss=own.loss,
        error_interval=wilson(wrong, count), top5_error_interval=wilson(wrong5, count),
        confusion=tuple(map(tuple, confusion)),
        recall_intervals=tuple(wilson(row[k], sum(row)) for k, row in enumerate(confusion)),
        calibration=own, scaled=calibration(scores, labels, temperatures), temperature=float(temperatures.mean()),
        fitted="halves" if halves else source,
        mistakes=mistakes(seen, scores, order[:, 0]),
        left_out=tuple(f"{problem.path} {problem.detail}" for problem in seen.problems),
    )  # fmt: skip


def mistakes(seen: Seen, scores: Scores, guesses: Labels) -> tuple[Mistake, ...]:
    """The wrong guesses of which the network was surest."""
    labels = seen.images.labels.numpy()
    certainty = scores[np.arange(len(labels)), guesses]
    wrong = np.flatnonzero(guesses != labels)
    surest = wrong[np.argsort(-certainty[wrong], kind="stable")[:SHOWN]]
    return tuple(
        Mistake(
            where=seen.names[i], thumbnail=thumbnail(seen.images.pixels[i]), truth=int(labels[i]), guess=int(guesses[i]),
            probability=float(np.exp(certainty[i])),
        )
        for i in surest
    )  # fmt: skip
