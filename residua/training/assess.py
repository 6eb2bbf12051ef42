"""Evaluate a model folder: error intervals, confusion matrix, calibration, confident mistakes.

`evaluate_network` only counts errors; this module keeps the log probabilities of every image.
"""

from collections.abc import Callable
from copy import deepcopy
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
from residua.data.images import Images
from residua.data.read import NamedImages, read_preprocessed_split
from residua.data.summarize import summarize_evaluated_data
from residua.data.summary import USED_KINDS, DataSummary, ignore_summary
from residua.data.thumbnails import make_thumbnail_uri
from residua.data.unseen_images import EvaluatedSplit, ImageChoice, choose_images
from residua.errors import RecordError, UsageError
from residua.net.model_folder import (
    check_compatibility,
    find_model_folder,
    fingerprint_model_folder,
    from_pretrained,
    read_compatible_config,
)
from residua.training.calibration import (
    FloatArray,
    LabelArray,
    cross_fit_temperatures,
    measure_calibration,
)
from residua.training.evaluate import predict_own_batches
from residua.training.machine import Machine
from residua.training.rank_agreement import RankFacts, require_equal_ranks
from residua.training.stored_temperature import fit_stored_temperature, remove_stored_temperature

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
    """Predict log probabilities (n, classes) of uint8 images, in fp32 and in the images' order.

    The ranks of the machine's group share the batches, and every rank returns the log probabilities
    of all images.  `net` runs in evaluation mode, and returns to its previous mode.
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
    split: EvaluatedSplit | None,
    machine: Machine,
    data_dir: Path | None = None,
    *,
    on_data: Callable[[DataSummary], None] = ignore_summary,
    mirror: bool = False,
    calibrate: bool = False,
    forget_temperature: bool = False,
) -> EvaluationResult:
    """Evaluate the network in `folder` on a split of a data set.

    `folder` is a model folder, or the folder of a run, whose model folder `last` is then used.
    Without a `split`, the images are those that the model was not trained on (`choose_images`).
    `on_data` is called with what was understood of the images before they are classified.  With
    `mirror`, the probabilities of each image and its mirror image are averaged.  With `calibrate`,
    a temperature is first fitted on the dev split, and stored in the config if it lowers the loss
    of images that it was not fitted on; with `forget_temperature`, a stored one is removed.

    Raises UsageError if the data set's classes or image shapes differ from the model's, or if the
    images do not allow `mirror` or `calibrate`; RecordError if the model folder cannot be read, and
    DataError if the images cannot.
    """
    folder = find_model_folder(folder)
    config = read_compatible_config(data, folder)
    choice = choose_images(data, split, config)
    check_evaluation_options(data, choice, mirror=mirror, calibrate=calibrate)
    agreed_facts: RankFacts = {
        "command": "evaluate",
        "options": [mirror, calibrate, forget_temperature],
    }
    if machine.group.world_size > 1:
        agreed_facts["model"] = fingerprint_model_folder(folder)
    net = machine.prepare_model(from_pretrained(folder))
    predict = partial(
        load_and_predict, net, config, machine, data_dir, on_data, mirror, agreed_facts
    )
    dev = predict(choose_images(data, "dev", config)) if calibrate else None
    named_images, log_probs = predict(choice)
    source: Literal["dev", "folder"] = "folder"
    note, is_main = "", machine.group.is_main
    if dev is not None:
        config, note, source = fit_stored_temperature(folder, config, *dev, write=is_main)
    elif forget_temperature:
        config, note = remove_stored_temperature(folder, config, write=is_main)
    environment = machine.describe_environment()
    return replace(
        build_evaluation(named_images, log_probs, config, source),
        dataset=data.name,
        split=choice.label,
        mirror=mirror,
        environment=tuple((name, str(value)) for name, value in environment.items()),
        temperature_note=note,
    )


def evaluate_classifier(
    net: nn.Module,
    config: ModelConfig,
    data: Dataset,
    split: EvaluatedSplit | None,
    machine: Machine,
    data_dir: Path | None = None,
    *,
    mirror: bool = False,
) -> EvaluationResult:
    """Evaluate a network that is in memory, as `evaluate_model_folder` does."""
    check_compatibility(config, data, config.network.name)
    choice = choose_images(data, split, config)
    check_evaluation_options(data, choice, mirror=mirror, calibrate=False)
    named_images, log_probs = load_and_predict(
        machine.prepare_model(deepcopy(net)),
        config,
        machine,
        data_dir,
        ignore_summary,
        mirror,
        {"command": "evaluate"},
        choice,
    )
    return replace(
        build_evaluation(named_images, log_probs, config),
        dataset=data.name,
        split=choice.label,
        mirror=mirror,
    )


def check_evaluation_options(
    data: Dataset, choice: ImageChoice, *, mirror: bool, calibrate: bool
) -> None:
    """Raise UsageError if mirroring may change an image's class, or the dev split is evaluated."""
    if mirror and not data.flip_keeps_class:
        raise UsageError(
            f"--mirror cannot be used with {data.name}, because a mirrored image may belong to "
            "another class: remove --mirror"
        )
    if calibrate and choice.label in ("dev", "all"):
        raise UsageError(
            "--calibrate fits on the dev split, so an evaluation on it would be too optimistic: "
            "choose another --split"
        )


def load_and_predict(
    net: nn.Module,
    config: ModelConfig,
    machine: Machine,
    data_dir: Path | None,
    on_data: Callable[[DataSummary], None],
    mirror: bool,
    agreed_facts: RankFacts,
    choice: ImageChoice,
) -> tuple[NamedImages, FloatArray]:
    """Read the chosen images, and predict their log probabilities (n, classes).

    Before that, `on_data` gets their summary.  All ranks must agree on `agreed_facts` and on the
    images.  Raises RecordError if the network's scores are not finite.
    """
    named_images = machine.group.run_local_rank0_first(
        partial(read_preprocessed_split, choice.dataset, choice.split, config, data_dir)
    )
    images, problems = named_images.images, named_images.problems
    require_equal_ranks(machine, lambda: agreed_facts | {"images": images.fingerprint})
    labels = images.labels.tolist()
    on_data(summarize_evaluated_data(choice.dataset, choice.label, labels, problems, choice.reason))
    log_probs = predict_log_probabilities(net, images, config, machine, mirror=mirror)
    require_finite_scores(log_probs, config)
    return named_images, log_probs.numpy()


def require_finite_scores(log_probs: Tensor, config: ModelConfig) -> None:
    """Raise RecordError if log probabilities (n, classes) of the network are not finite."""
    if bad_count := int(log_probs.isnan().any(1).sum()):
        raise RecordError(
            f"{config.network.name} gives scores that are not finite for {bad_count:,} of "
            f"{len(log_probs):,} images: use other weights, such as those of another epoch"
        )


def build_evaluation(
    named_images: NamedImages,
    log_probs: FloatArray,
    config: ModelConfig,
    temperature_source: Literal["dev", "folder"] = "folder",
) -> EvaluationResult:
    """Compute all measures of an evaluation from log probabilities (n, classes).

    `temperature_source` is "dev" if `config.temperature` was fitted on the dev split for this
    evaluation, and "folder" if it was stored in the model folder before.  A temperature of 1 means
    that none has been fitted yet.  In that case the images are split into two halves, and the
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
        left_out=tuple(
            f"{problem.path} {problem.detail}"
            for problem in named_images.problems
            if problem.kind not in USED_KINDS
        ),
    )


def count_confusions(
    labels: LabelArray, predicted_classes: LabelArray, class_count: int
) -> LabelArray:
    """Count the confusion matrix (classes, classes): labels in rows, predictions in columns."""
    pairs = labels * class_count + predicted_classes
    return np.bincount(pairs, minlength=class_count**2).reshape(class_count, class_count)


def find_confident_mistakes(
    named_images: NamedImages, log_probs: FloatArray, predicted_classes: LabelArray
) -> tuple[ConfidentMistake, ...]:
    """The most confident mistakes, at most `MAX_MISTAKES`, in descending order of probability."""
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
