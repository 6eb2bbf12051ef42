"""Text that summarizes the results of an evaluation."""

from residua.config.evaluation_results import DOUBTFUL_SHARE_OF_CHANCE, EvaluationResult
from residua.report.accuracy import format_accuracy
from residua.report.format import (
    choose_percent_digits,
    format_confidence_interval,
    format_counted_noun,
    format_percent,
    format_three_digits,
)

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
    """Write a sentence with the error and, for more than five classes, the top-5 error.

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
    """Return whether there are more than five classes; otherwise the top-5 error is always 0."""
    return len(evaluation.classes) > 5


def describe_wrong_images(evaluation: EvaluationResult) -> str:
    """Describe the number of wrong predictions in words: `80 of 400 test images wrong`."""
    return f"{evaluation.wrong:,} of {format_evaluated_image_count(evaluation)} wrong"


def format_evaluated_image_count(evaluation: EvaluationResult) -> str:
    """Say how many images were evaluated: `400 test images`, or `400 images` for all splits."""
    split = "" if evaluation.split == "all" else f"{evaluation.split} "
    return f"{evaluation.count:,} {split}images"


def describe_calibration(evaluation: EvaluationResult) -> str:
    """Describe mean confidence, accuracy, and the ECE without and with temperature scaling.

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


def describe_accuracy_interval(evaluation: EvaluationResult) -> tuple[str, str]:
    """Describe the share of images that are right, and what it counts, with its 95 % interval."""
    right, low, high = format_accuracy(evaluation.error_rate, evaluation.count)
    label = (
        f"of {format_evaluated_image_count(evaluation)} are right, 95 % interval {low} to {high} %"
    )
    if has_informative_top5_error(evaluation):
        digits = choose_percent_digits(evaluation.count)
        top5 = format_percent(1 - evaluation.top5_error_rate, digits)
        label += f"; top 5: {top5}"
    return f"{right} %", label


def describe_calibration_gain(evaluation: EvaluationResult) -> str:
    """Write a sentence on whether a temperature improves the calibration, with ECE and loss.

    A change of the loss must be larger than its standard error, if the record has it.
    """
    before, after = evaluation.calibration, evaluation.scaled
    lower_ece, lower_loss = after.ece < before.ece, after.loss < before.loss
    if abs(after.loss - before.loss) <= (evaluation.loss_change_error or 0.0):
        verdict = "Calibration makes no measurable difference"
    elif lower_ece and lower_loss:
        verdict = "Calibration helps"
    elif lower_ece or lower_loss:
        verdict = "Calibration helps in part"
    else:
        verdict = "Calibration does not help"
    return (
        f"{verdict}: at temperature {evaluation.temperature:.2f} "
        f"({TEMPERATURE_SOURCES[evaluation.fitted]}) the expected calibration error (ECE) goes "
        f"from {format_percent(before.ece)} to {format_percent(after.ece)}, and the mean "
        f"cross-entropy from {before.loss:.3f} to {after.loss:.3f} nats."
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


def describe_label_check(evaluation: EvaluationResult) -> str:
    """Write a sentence on the labels that may be wrong; "" if labels were not checked."""
    if not evaluation.label_check:
        return ""
    if not evaluation.doubtful_count:
        return "No label is in doubt."
    verb = "is" if evaluation.doubtful_count == 1 else "are"
    return (
        f"{format_counted_noun(evaluation.doubtful_count, 'label')} of {evaluation.count:,} {verb} "
        "in doubt: the network sees another class."
    )


def describe_label_rule(evaluation: EvaluationResult) -> str:
    """Describe the rule by which labels are doubted, and what it cannot tell."""
    class_count = len(evaluation.classes)
    limit = f"{format_three_digits(100 * DOUBTFUL_SHARE_OF_CHANCE / class_count)} %"
    text = (
        "Confident learning (Northcutt et al. 2021): another class is the most probable one, at "
        "least as probable as it is on average for images with that label, and the label has a "
        f"probability below {limit}, half of a guess among {class_count} classes."
    )
    if evaluation.temperature != 1:
        text += f" Probabilities in this table are at temperature {evaluation.temperature:.2f}."
    if evaluation.label_check == "last and best":
        text += " The weights of the run's best epoch say the same."
    if evaluation.split in ("train", "all"):
        text += " The network was trained on some of these labels, and may have learned wrong ones."
    return f"{text} Unusual images are listed, too: look before you change a label."


def describe_extreme_recalls(evaluation: EvaluationResult) -> str:
    """Write a sentence on the classes of highest and lowest recall; "" if all recalls are equal."""
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
    """Write a sentence on the most frequent confusion and its reverse; "" without mistakes."""
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
