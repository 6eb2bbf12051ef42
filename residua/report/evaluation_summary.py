"""Text that summarizes the results of an evaluation."""

from residua.config.evaluation_results import (
    DOUBTFUL_SHARE_OF_CHANCE,
    EvaluationResult,
)
from residua.config.image_views import describe_views
from residua.report.accuracy import describe_guessing, format_accuracy
from residua.report.calibration_summary import (
    can_judge_calibration,
    describe_calibration,
    describe_temperature,
)
from residua.report.format import (
    choose_percent_digits,
    format_confidence_interval,
    format_counted_noun,
    format_percent,
    format_three_digits,
)


def describe_evaluation(evaluation: EvaluationResult) -> list[str]:
    """Summarize error, calibration, extreme recalls and the main confusion, one text each.

    A sentence follows the error if the network does no better than guessing.  The last two are
    left out if there is nothing to report, e.g. no mistakes.
    """
    sentences = [
        describe_error(evaluation),
        describe_guessing_level(evaluation),
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
    views = describe_views(evaluation.views)
    return f"{evaluation.wrong:,} of {format_evaluated_image_count(evaluation)} wrong{views}"


def format_evaluated_image_count(evaluation: EvaluationResult) -> str:
    """Say how many images were evaluated: `400 test images`, or `400 images` for all splits."""
    split = "" if evaluation.split == "all" else f"{evaluation.split} "
    return f"{evaluation.count:,} {split}images"


def describe_guessing_level(evaluation: EvaluationResult) -> str:
    """Write a sentence if the accuracy is not clearly above that of guessing; otherwise ""."""
    if evaluation.is_clearly_better_than_guessing:
        return ""
    digits = choose_percent_digits(evaluation.count)
    interval = format_confidence_interval(evaluation.error_interval, digits)
    guess_error = 1 - evaluation.most_frequent_share
    return describe_guessing(
        f"the error is {format_percent(evaluation.error_rate, digits)} ({interval})",
        "always guessing the most frequent class",
        guess_error,
        digits,
        is_possible_gain=evaluation.error_rate < guess_error,
    )


def describe_accuracy_interval(evaluation: EvaluationResult) -> tuple[str, str]:
    """Describe the share of images that are right, and what it counts, with its 95 % interval."""
    right, low, high = format_accuracy(evaluation.error_rate, evaluation.count)
    label = (
        f"of {format_evaluated_image_count(evaluation)} are right"
        f"{describe_views(evaluation.views)}, 95 % interval {low} to {high} %"
    )
    if has_informative_top5_error(evaluation):
        digits = choose_percent_digits(evaluation.count)
        top5 = format_percent(1 - evaluation.top5_error_rate, digits)
        label += f"; top 5: {top5}"
    return f"{right} %", label


def describe_label_check(evaluation: EvaluationResult) -> str:
    """Write a sentence on the labels that may be wrong; "" if labels were not checked."""
    if not evaluation.label_check:
        return ""
    if not evaluation.is_clearly_better_than_guessing:
        return "No label is listed, because the network does no better than guessing."
    if not evaluation.labels_to_check_count:
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
    has_few_images = evaluation.fitted == "halves" and not can_judge_calibration(evaluation)
    if has_few_images and not evaluation.doubts_are_scaled:
        text += " All probabilities are the network's own, as those of the mistakes above are."
    elif evaluation.temperature != 1:
        which = "The rule takes probabilities"
        if not evaluation.doubts_are_scaled:
            text += " The table has the network's own probabilities, as the mistakes above have."
        else:
            which = "The rule and the table take probabilities"
        text += f" {which} {describe_temperature(evaluation)}."
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
