"""All that an evaluation shows: every image's scores, and what is counted from them."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from residua.config.dataset import Dataset
from residua.config.evaluation_results import ConfidentMistake, EvaluationResult, wilson_interval
from residua.config.memory import EVAL_BATCH
from residua.config.model import ModelConfig
from residua.config.serialize import to_json
from residua.data.read import Images, NamedImages, Split, read_preprocessed_split
from residua.data.thumbnails import make_thumbnail_uri
from residua.errors import UsageError
from residua.files import write_json
from residua.net.model_folder import from_pretrained
from residua.training.calibration import (
    FloatArray,
    LabelArray,
    cross_fit_temperatures,
    fit_temperature,
    measure_calibration,
)
from residua.training.evaluate import (
    batch_log_probabilities,
    find_model_folder,
    read_compatible_config,
)
from residua.training.machine import Machine

MAX_MISTAKES = 24  # of the mistakes
"""Our choice."""


@torch.no_grad()
def predict_log_probabilities(
    net: nn.Module,
    images: Images,
    config: ModelConfig,
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    mirror: bool = False,
) -> Tensor:
    """log p (n, classes) of uint8 images, fp32, in their order; the net is left in the mode it was in.

    Of several processes each takes every n-th batch, and all get the scores of all images.
    """
    was_training, group = net.training, machine.group
    net.eval()
    log_probs = torch.zeros(len(images), len(config.classes), device=machine.device)
    for start in range(group.rank * batch_size, len(images), group.world_size * batch_size):
        batch = images[slice(start, start + batch_size)].to(machine.device)
        log_probs[start : start + batch_size] = batch_log_probabilities(
            net, batch.pixels, config.mean, config.std, machine, mirror
        )
    net.train(was_training)
    return group.all_reduce_sum(log_probs).cpu()


def evaluate_model_folder(
    folder: Path,
    data: Dataset,
    split: Split | Literal["all"],
    machine: Machine,
    data_dir: Path | None = None,
    *,
    mirror: bool = False,
    calibrate: bool = False,
) -> EvaluationResult:
    """A model folder, or a run's last network, on a data set of the same classes and image shape.

    The preprocessing is the model folder's own.  `calibrate` fits a temperature on the dev split and stores it there.
    Raises UsageError for other classes or shapes, where a mirror image may be of another class, or where the dev split would be
    both fitted on and reported; RecordError, DataError.
    """
    if mirror and not data.flip_keeps_class:
        raise UsageError(
            f"a mirror image in {data.name} may be of another class: leave --mirror out"
        )
    if calibrate and split in ("dev", "all"):
        raise UsageError(
            "--calibrate fits on the dev split, which then says nothing of the fit: report another --split"
        )
    folder = find_model_folder(folder)
    config = read_compatible_config(data, folder)
    net = machine.prepare_model(from_pretrained(folder))

    def load_and_predict(split: Split | Literal["all"]) -> tuple[NamedImages, FloatArray]:
        named_images = machine.group.run_local_rank0_first(
            partial(read_preprocessed_split, data, split, config, data_dir)
        )
        return named_images, predict_log_probabilities(
            net, named_images.images, config, machine, mirror=mirror
        ).numpy()

    if calibrate:
        dev, log_probs = load_and_predict("dev")
        config = replace(config, temperature=fit_temperature(log_probs, dev.images.labels.numpy()))
        if machine.group.is_main:
            write_json(folder / "config.json", to_json(config))
    named_images, log_probs = load_and_predict(split)
    evaluation = build_evaluation(named_images, log_probs, config, "dev" if calibrate else "folder")
    return replace(
        evaluation,
        dataset=data.name,
        split=split,
        mirror=mirror,
        environment=tuple(
            (name, str(value)) for name, value in machine.describe_environment().items()
        ),
    )


def build_evaluation(
    named_images: NamedImages,
    log_probs: FloatArray,
    config: ModelConfig,
    temperature_source: Literal["dev", "folder"] = "folder",
) -> EvaluationResult:
    """What `scores` (n, classes) say of images; `source` is where the config's temperature is from.

    Where it has none, each half of the images is scaled by the temperature of the other half.
    """
    labels = named_images.images.labels.numpy()
    count, top5_classes = len(labels), np.argsort(-log_probs, axis=1, kind="stable")[:, :5]
    top5_hits = top5_classes == labels[:, None]
    wrong, wrong5 = int((~top5_hits[:, 0]).sum()), int((~top5_hits.any(1)).sum())
    confusion = confusion_matrix(
        labels, top5_classes[:, 0], labels=range(len(config.classes))
    ).tolist()
    cross_fits_temperature = config.temperature == 1
    temperatures = (
        cross_fit_temperatures(log_probs, labels)
        if cross_fits_temperature
        else np.full((count, 1), config.temperature, np.float32)
    )
    unscaled = measure_calibration(log_probs, labels)
    return EvaluationResult(
        model=config.network.name,
        dataset=config.dataset,
        split="",
        mirror=False,
        classes=config.classes,
        count=count,
        wrong=wrong,
        wrong5=wrong5,
        loss=unscaled.loss,
        error_interval=wilson_interval(wrong, count),
        top5_error_interval=wilson_interval(wrong5, count),
        confusion=tuple(map(tuple, confusion)),
        recall_intervals=tuple(
            wilson_interval(row[k], sum(row)) for k, row in enumerate(confusion)
        ),
        calibration=unscaled,
        scaled=measure_calibration(log_probs, labels, temperatures),
        temperature=float(temperatures.mean()),
        fitted="halves" if cross_fits_temperature else temperature_source,
        mistakes=find_confident_mistakes(named_images, log_probs, top5_classes[:, 0]),
        left_out=tuple(f"{problem.path} {problem.detail}" for problem in named_images.problems),
    )


def find_confident_mistakes(
    named_images: NamedImages, log_probs: FloatArray, predicted_classes: LabelArray
) -> tuple[ConfidentMistake, ...]:
    """The wrong guesses of which the network was surest."""
    labels = named_images.images.labels.numpy()
    predicted_log_probs = log_probs[np.arange(len(labels)), predicted_classes]
    wrong = np.flatnonzero(predicted_classes != labels)
    most_confident = wrong[np.argsort(-predicted_log_probs[wrong], kind="stable")[:MAX_MISTAKES]]
    return tuple(
        ConfidentMistake(
            where=named_images.names[i],
            thumbnail=make_thumbnail_uri(named_images.images.pixels[i]),
            truth=int(labels[i]),
            guess=int(predicted_classes[i]),
            probability=float(np.exp(predicted_log_probs[i])),
        )
        for i in most_confident
    )
