"""Text that summarizes the results of an evaluation."""

from residua.config.evaluation_results import EvaluationResult
from residua.report.format import format_confidence_interval, format_percent

WELL_CALIBRATED_ECE = 0.01  # our choice: below one point a network counts as well calibrated
TEMPERATURE_SOURCES = {
    "folder": "stored in the model folder",
    "dev": "fitted on the dev split",
    "halves": "fitted for each half of the images on the other half",
}


def describe_evaluation(evaluation: EvaluationResult) -> list[str]:
    """Summarize error, calibration, extreme recalls and the main confusion, one text each.

    The last two are left out if there is nothing to report, e.g. no mistakes.
    """
    sentences = [
        describe_error(evaluation),
        describe_calibration(evaluation),
        describe_extreme_recalls(evaluation),
        describe_main_confusion(evaluation),
    ]
    return [sentence for sentence in sentences if sentence]


def describe_error(evaluation: EvaluationResult) -> str:
    """A sentence with the error and, for more than five classes, the top-5 error.

    Each comes with its 95 % confidence interval.
    """
    error = format_percent(evaluation.error_rate, 2)
    interval = format_confidence_interval(evaluation.error_interval)
    sentence = f"{describe_wrong_images(evaluation)}: error {error} ({interval})"
    if has_informative_top5_error(evaluation):
        top5_error = format_percent(evaluation.top5_error_rate, 2)
        top5_interval = format_confidence_interval(evaluation.top5_error_interval)
        sentence += f", top-5 error {top5_error} ({top5_interval})"
    return f"{sentence}."


def has_informative_top5_error(evaluation: EvaluationResult) -> bool:
    """Whether there are more than five classes; with fewer the top-5 error is 0 by definition."""
    return len(evaluation.classes) > 5


def describe_wrong_images(evaluation: EvaluationResult) -> str:
    """The number of wrong predictions in words: `80 of 400 test images wrong`."""
    return f"{evaluation.wrong:,} of {describe_evaluated_images(evaluation)} wrong"


def describe_evaluated_images(evaluation: EvaluationResult) -> str:
    """The number of images in words: `400 test images`, or `400 images` if all splits were used."""
    split = "" if evaluation.split == "all" else f"{evaluation.split} "
    return f"{evaluation.count:,} {split}images"


def describe_calibration(evaluation: EvaluationResult) -> str:
    """Text on mean confidence, accuracy, and the ECE without and with temperature scaling.

    ECE is the expected calibration error.
    """
    bins = evaluation.calibration.bins
    mean_confidence = sum(b.count * b.confidence for b in bins) / evaluation.count
    accuracy, ece = 1 - evaluation.error_rate, evaluation.calibration.ece
    if ece < WELL_CALIBRATED_ECE:
        verdict = "well calibrated"
    else:
        verdict = "over-confident" if mean_confidence > accuracy else "under-confident"
    return (
        f"Mean confidence {format_percent(mean_confidence)}, "
        f"accuracy {format_percent(accuracy)}: {verdict}, "
        f"with an expected calibration error (ECE) of {format_percent(ece)}. "
        f"At temperature {evaluation.temperature:.2f} "
        f"({TEMPERATURE_SOURCES[evaluation.fitted]}) "
        f"the ECE is {format_percent(evaluation.scaled.ece)}."
    )


def describe_extreme_recalls(evaluation: EvaluationResult) -> str:
    """A sentence on the classes of highest and lowest recall; empty if all recalls are equal."""
    recalls = [
        (recall, k)
        for k in range(len(evaluation.classes))
        if (recall := evaluation.class_recall(k)) is not None
    ]
    if not recalls:
        return ""
    (lowest, worst_class), (highest, best_class) = min(recalls), max(recalls)
    if lowest == highest:
        return ""
    best, worst = evaluation.classes[best_class], evaluation.classes[worst_class]
    return f"Recall: best {best} {format_percent(highest)}, worst {worst} {format_percent(lowest)}."


def describe_main_confusion(evaluation: EvaluationResult) -> str:
    """A sentence on the most frequent confusion and its reverse; empty if there are no mistakes."""
    confusions = evaluation.most_frequent_confusions()
    if not confusions:
        return ""
    count, truth, guess = confusions[0]
    return (
        f"Most frequent confusion: {evaluation.classes[truth]} "
        f"classified as {evaluation.classes[guess]}, "
        f"{count:,} of {evaluation.count_images_of_class(truth):,} images "
        f"(reverse: {evaluation.confusion[guess][truth]:,} "
        f"of {evaluation.count_images_of_class(guess):,})."
    )


def list_skipped_files(evaluation: EvaluationResult, max_files: int = 20) -> list[str]:
    """List up to `max_files` unreadable files, one per line; a last line counts the others."""
    lines = [f"skipped: {reason}" for reason in evaluation.left_out[:max_files]]
    remaining_count = len(evaluation.left_out) - max_files
    if remaining_count > 0:
        lines.append(f"{remaining_count:,} more files were skipped")
    return lines
