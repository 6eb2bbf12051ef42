"""Evaluate a model folder in full: confusion matrix, calibration, intervals, confident mistakes.

`evaluate_network` counts errors alone; this module keeps the log probabilities of every image.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from residua.config.dataset import Dataset
from residua.config.evaluation_results import ConfidentMistake, EvaluationResult, wilson_interval
from residua.config.memory import EVAL_BATCH
from residua.config.model import ModelConfig
from residua.config.serialize import to_json
from residua.data.read import Images, NamedImages, read_preprocessed_split
from residua.data.sources.listing import Split
from residua.data.thumbnails import make_thumbnail_uri
from residua.errors import UsageError
from residua.files import write_json
from residua.net.model_folder import find_model_folder, from_pretrained, read_compatible_config
from residua.training.calibration import (
    FloatArray,
    LabelArray,
    cross_fit_temperatures,
    fit_temperature,
    measure_calibration,
)
from residua.training.evaluate import predict_own_batches
from residua.training.machine import Machine

MAX_MISTAKES = 24  # confident mistakes that an evaluation shows; our choice


def predict_log_probabilities(
    net: nn.Module,
    images: Images,
    config: ModelConfig,
    machine: Machine,
    batch_size: int = EVAL_BATCH,
    *,
    mirror: bool = False,
) -> Tensor:
    """Log probabilities (n, classes) of uint8 images, in fp32 and in the order of the images.

    The ranks of the machine's group share the batches, and each gets the rows of all images.  The
    mode of `net` is restored.
    """
    log_probs = torch.zeros(len(images), len(config.classes), device=machine.device)
    for batch_slice, _, batch_log_probs in predict_own_batches(
        net, images, config.mean, config.std, machine, batch_size, mirror=mirror
    ):
        log_probs[batch_slice] = batch_log_probs
    return machine.group.all_reduce_sum(log_probs).cpu()


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
    """Evaluate a model folder, or the last network of a run, on a split of a data set.

    Images are preprocessed as the model folder's config says.  With `mirror`, the probabilities of
    each image and its mirror image are averaged.  With `calibrate`, a temperature is first fitted
    on the dev split and stored in the config.  Raises UsageError if the data set's classes or image
    shapes differ from the model's, if `mirror` is set but a mirror image may belong to another
    class, or if `calibrate` is set and the evaluated split contains the dev split.  Raises
    RecordError if the model folder cannot be read, and DataError if the images cannot.
    """
    if mirror and not data.flip_keeps_class:
        raise UsageError(
            f"--mirror cannot be used with {data.name}, because a mirrored image may belong to "
            "another class: remove --mirror"
        )
    if calibrate and split in ("dev", "all"):
        raise UsageError(
            "--calibrate fits on the dev split, so an evaluation on it would be too optimistic: "
            "choose another --split"
        )
    folder = find_model_folder(folder)
    config = read_compatible_config(data, folder)
    net = machine.prepare_model(from_pretrained(folder))

    def load_and_predict(split: Split | Literal["all"]) -> tuple[NamedImages, FloatArray]:
        named_images = machine.group.run_local_rank0_first(
            partial(read_preprocessed_split, data, split, config, data_dir)
        )
        log_probs = predict_log_probabilities(
            net, named_images.images, config, machine, mirror=mirror
        )
        return named_images, log_probs.numpy()

    if calibrate:
        dev, log_probs = load_and_predict("dev")
        config = replace(config, temperature=fit_temperature(log_probs, dev.images.labels.numpy()))
        if machine.group.is_main:
            write_json(folder / "config.json", to_json(config))
    named_images, log_probs = load_and_predict(split)
    evaluation = build_evaluation(named_images, log_probs, config, "dev" if calibrate else "folder")
    environment = machine.describe_environment()
    return replace(
        evaluation,
        dataset=data.name,
        split=split,
        mirror=mirror,
        environment=tuple((name, str(value)) for name, value in environment.items()),
    )


def build_evaluation(
    named_images: NamedImages,
    log_probs: FloatArray,
    config: ModelConfig,
    temperature_source: Literal["dev", "folder"] = "folder",
) -> EvaluationResult:
    """Compute all measures of an evaluation from log probabilities (n, classes).

    `temperature_source` says what `config.temperature` was fitted on: the dev split, for this
    evaluation ("dev"), or earlier, as stored in the model folder ("folder").  A temperature of 1
    means that none has been fitted yet.  In that case the images are split into two halves, and the
    scores of each half are scaled by the temperature fitted on the other half.
    """
    labels = named_images.images.labels.numpy()
    count, class_count = len(labels), len(config.classes)
    top5_classes = np.argsort(-log_probs, axis=1, kind="stable")[:, :5]
    top5_hits = top5_classes == labels[:, None]
    wrong, wrong5 = int((~top5_hits[:, 0]).sum()), int((~top5_hits.any(1)).sum())
    confusion = count_confusions(labels, top5_classes[:, 0], class_count).tolist()
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


def count_confusions(
    labels: LabelArray, predicted_classes: LabelArray, class_count: int
) -> LabelArray:
    """The confusion matrix (classes, classes): rows are labels, columns predicted classes."""
    pairs = labels * class_count + predicted_classes
    return np.bincount(pairs, minlength=class_count**2).reshape(class_count, class_count)


def find_confident_mistakes(
    named_images: NamedImages, log_probs: FloatArray, predicted_classes: LabelArray
) -> tuple[ConfidentMistake, ...]:
    """The `MAX_MISTAKES` wrong predictions of highest probability, the most confident first."""
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
