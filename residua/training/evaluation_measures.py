"""All measures of an evaluation, from the log probabilities that a network gives its images."""

from dataclasses import replace
from math import isfinite
from typing import Literal

import numpy as np

from residua.config.evaluation_results import (
    MIN_CALIBRATION_IMAGES,
    EvaluationResult,
    wilson_interval,
)
from residua.config.model import ModelConfig
from residua.data.preprocessed_images import NamedImages
from residua.data.summary import USED_KINDS
from residua.training.calibration import (
    FloatArray,
    LabelArray,
    compare_losses,
    cross_fit_temperatures,
    measure_calibration,
)
from residua.training.doubtful_labels import (
    MAX_PICTURED_LABELS,
    SecondOpinion,
    describe_doubtful_labels,
    find_doubtful_labels,
)
from residua.training.shown_images import choose_examples, find_confident_mistakes


def build_evaluation(
    named_images: NamedImages,
    log_probs: FloatArray,
    config: ModelConfig,
    temperature_source: Literal["dev", "folder"] = "folder",
    ask_second_opinion: SecondOpinion | None = None,
) -> EvaluationResult:
    """Compute all measures of an evaluation from log probabilities (n, classes).

    Labels are doubted only if `ask_second_opinion` agrees, if it is given.
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
    temperatures, half_temperatures = np.full((count, 1), config.temperature, np.float32), ()
    if cross_fits_temperature:
        temperatures = cross_fit_temperatures(log_probs, labels)
        half_temperatures = tuple(temperatures[:2, 0].tolist())
    unscaled = measure_calibration(log_probs, labels)
    change_error = compare_losses(log_probs, labels, temperatures).standard_error
    evaluation = EvaluationResult(
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
        half_temperatures=half_temperatures,
        loss_change_error=change_error if isfinite(change_error) else None,
        fitted="halves" if cross_fits_temperature else temperature_source,
        mistakes=(),
        left_out=tuple(
            f"{problem.path} {problem.detail}"
            for problem in named_images.problems
            if problem.kind not in USED_KINDS
        ),
    )
    return add_images_and_labels(
        evaluation, named_images, log_probs, temperatures, ask_second_opinion
    )


def add_images_and_labels(
    evaluation: EvaluationResult,
    named_images: NamedImages,
    log_probs: FloatArray,
    temperatures: FloatArray,
    ask_second_opinion: SecondOpinion | None,
) -> EvaluationResult:
    """Add the images of the page, and the labels to check, to an evaluation.

    Labels are doubted at the temperatures, or, if they are fitted on too few images, without.
    """
    if evaluation.fitted == "halves" and evaluation.count < MIN_CALIBRATION_IMAGES:
        temperatures = np.ones_like(temperatures)
    labels, predicted = named_images.images.labels.numpy(), log_probs.argmax(1)
    doubtful = find_doubtful_labels(log_probs, labels, temperatures, ask_second_opinion)
    mistakes = find_confident_mistakes(named_images, log_probs, predicted)
    examples = choose_examples(
        named_images,
        log_probs,
        predicted,
        shown={mistake.where for mistake in mistakes},
        wanted=doubtful[:MAX_PICTURED_LABELS].tolist(),
    )
    return replace(
        evaluation,
        mistakes=mistakes,
        examples=examples,
        label_check="last" if ask_second_opinion is None else "last and best",
        doubts_are_scaled=False,
        doubtful_count=len(doubtful),
        doubtful_labels=describe_doubtful_labels(named_images, log_probs, doubtful),
    )


def count_confusions(
    labels: LabelArray, predicted_classes: LabelArray, class_count: int
) -> LabelArray:
    """Count the confusion matrix (classes, classes): labels in rows, predictions in columns."""
    pairs = labels * class_count + predicted_classes
    return np.bincount(pairs, minlength=class_count**2).reshape(class_count, class_count)
