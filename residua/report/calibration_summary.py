"""Text on the calibration of an evaluation: what it is, and whether a temperature improves it."""

from math import sqrt

from residua.config.evaluation_results import MIN_CALIBRATION_IMAGES, EvaluationResult
from residua.report.format import capitalize_first, format_percent, join_with_and

WELL_CALIBRATED_ECE = 0.01  # our choice: below one point a network counts as well calibrated
CALIBRATION_HELPS = "Calibration helps"
TEMPERATURE_SOURCES = {
    "folder": "stored in the model folder",
    "dev": "fitted on the dev split",
    "halves": "fitted for each half of the images on the other half",
}


def describe_calibration(evaluation: EvaluationResult) -> str:
    """Describe mean confidence, accuracy, and the ECE without and with temperature scaling.

    ECE is the expected calibration error.  Few images get no verdict and no ECE.
    """
    bins = evaluation.calibration.bins
    mean_confidence = sum(b.count * b.confidence for b in bins) / evaluation.count
    means = (
        f"Mean confidence {format_percent(mean_confidence)}, "
        f"accuracy {format_percent(1 - evaluation.error_rate)}"
    )
    if not can_judge_calibration(evaluation):
        return f"{means}: {describe_few_calibration_images(evaluation)}."
    return (
        f"{means}: {judge_confidence(evaluation, mean_confidence)}, "
        "with an expected calibration error (ECE) of "
        f"{format_percent(evaluation.calibration.ece)}. "
        f"{capitalize_first(describe_temperature(evaluation))} "
        f"the ECE is {format_percent(evaluation.scaled.ece)}."
    )


def can_judge_calibration(evaluation: EvaluationResult) -> bool:
    """Return whether there are as many images as a temperature is fitted on, or more."""
    return evaluation.count >= MIN_CALIBRATION_IMAGES


def describe_few_calibration_images(evaluation: EvaluationResult) -> str:
    """Say that there are too few images: `too few images to judge the calibration (16 of ...)`."""
    return (
        f"too few images to judge the calibration ({evaluation.count:,}; at least "
        f"{MIN_CALIBRATION_IMAGES} are needed)"
    )


def judge_confidence(evaluation: EvaluationResult, mean_confidence: float) -> str:
    """Say in a word or two whether the confidence is too high, too low, or neither.

    The difference of mean confidence and accuracy must exceed its standard error, which is that of
    the accuracy if every image is right with the probability that the network gives.
    """
    if evaluation.calibration.ece < WELL_CALIBRATED_ECE:
        return "well calibrated"
    variances = [b.count * b.confidence * (1 - b.confidence) for b in evaluation.calibration.bins]
    standard_error = sqrt(max(sum(variances), 0.0)) / evaluation.count
    excess = mean_confidence - (1 - evaluation.error_rate)
    if abs(excess) <= standard_error:
        return "no measurable difference"
    return "over-confident" if excess > 0 else "under-confident"


def describe_temperature(evaluation: EvaluationResult) -> str:
    """Name the temperature and its source: `at temperature 1.70 (fitted on the dev split)`.

    The two halves of the images have a temperature each; older records have only their mean.
    """
    source = TEMPERATURE_SOURCES[evaluation.fitted]
    if evaluation.fitted != "halves":
        return f"at temperature {evaluation.temperature:.2f} ({source})"
    if not evaluation.half_temperatures:
        return f"at temperatures of mean {evaluation.temperature:.2f} ({source})"
    temperatures = [f"{temperature:.2f}" for temperature in evaluation.half_temperatures]
    noun = "temperature" if len(temperatures) == 1 else "temperatures"
    return f"at {noun} {join_with_and(temperatures)} ({source})"


def describe_calibration_gain(evaluation: EvaluationResult) -> str:
    """Write a sentence on whether a temperature improves the calibration, with ECE and loss."""
    if not can_judge_calibration(evaluation):
        return f"{capitalize_first(describe_few_calibration_images(evaluation))}."
    before, after = evaluation.calibration, evaluation.scaled
    return (
        f"{judge_calibration_gain(evaluation)}: {describe_temperature(evaluation)} "
        f"the expected calibration error (ECE) goes "
        f"from {format_percent(before.ece)} to {format_percent(after.ece)}, and the mean "
        f"cross-entropy from {before.loss:.3f} to {after.loss:.3f} nats."
    )


def judge_calibration_gain(evaluation: EvaluationResult) -> str:
    """Say whether a temperature lowers ECE and loss: `Calibration helps`.

    A change of the loss must be larger than its standard error, if the record has it.
    """
    before, after = evaluation.calibration, evaluation.scaled
    lower_ece, lower_loss = after.ece < before.ece, after.loss < before.loss
    if abs(after.loss - before.loss) <= (evaluation.loss_change_error or 0.0):
        return "Calibration makes no measurable difference"
    if lower_ece and lower_loss:
        return CALIBRATION_HELPS
    return (
        f"{CALIBRATION_HELPS} in part" if lower_ece or lower_loss else ("Calibration does not help")
    )


def is_worth_storing(evaluation: EvaluationResult) -> bool:
    """Return whether the page suggests to store a temperature: it helps, and none is stored."""
    return (
        evaluation.fitted == "halves"
        and can_judge_calibration(evaluation)
        and judge_calibration_gain(evaluation) == CALIBRATION_HELPS
    )


def describe_temperature_images(evaluation: EvaluationResult) -> str:
    """Say whether the temperature was fitted on other images than those it is reported on."""
    if evaluation.fitted == "halves":
        return "It is fitted for each half of the images on the other half."
    if evaluation.fitted == "folder" and evaluation.split in ("dev", "all"):
        return (
            "It was fitted on dev images that may be among these, which makes the calibration "
            "look better than it is."
        )
    return "It was fitted on dev images, which are not among these."
