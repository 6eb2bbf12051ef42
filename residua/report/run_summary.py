"""Text on a single run: its accuracy, and whether its numbers show over-fitting."""

from math import hypot

from residua.config.evaluation_results import wilson_interval
from residua.config.image_views import describe_views
from residua.report.accuracy import describe_guessing, format_accuracy
from residua.report.format import (
    capitalize_first,
    choose_percent_digits,
    format_counted_noun,
    format_percent,
    format_points,
    format_signed_percent,
    format_three_digits,
)
from residua.report.method import ERROR_DEFINITION
from residua.report.recorded_run import MAX_IMAGES, FinishedRun
from residua.report.significance import CHANCE_SHARE

NOTABLE_GAP = 0.1  # our choice: test minus training error that is over-fitting if it is real
RISEN_LOSS = 1.05  # our choice: a dev loss this many times its lowest value has risen


def describe_test_accuracy(run: FinishedRun) -> tuple[str, str]:
    """Describe the share of right test images, and what it counts, with its 95 % interval."""
    count, views = run.result.test_images, describe_views(run.recipe.get("views"))
    right, low, high = format_accuracy(run.result.test_error, count)
    if count is None:
        return f"{right} %", f"of the test images are right{views}"
    images = format_counted_noun(count, "test image")
    return f"{right} %", f"of {images} are right{views}, 95 % interval {low} to {high} %"


def get_test_error_interval(run: FinishedRun) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the test error, or the error if the count is unknown."""
    count, error = run.result.test_images, run.result.test_error
    return wilson_interval(round(error * count), count) if count else (error, error)


def count_training_images(run: FinishedRun) -> int | None:
    """Count the training images from the batch size and the epochs; None if they are not recorded.

    Records hold the number of dev and test images, but not that of training images.
    """
    batch_size = run.recipe.get("batch_size")
    for row in reversed(run.metric_lines):
        epoch, step = row.get("epoch"), row.get("step")
        if isinstance(batch_size, int) and epoch and step:
            count = round(step * batch_size / epoch)
            return count if 1 <= count <= MAX_IMAGES else None
    return None


def get_train_error_interval(run: FinishedRun) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the training error, or the error without a count."""
    count, error = count_training_images(run), run.result.train_error
    return wilson_interval(round(error * count), count) if count else (error, error)


def compute_gap_interval(run: FinishedRun) -> tuple[float, float]:
    """Compute the 95 % interval of test error minus training error, by Newcombe's method 10 (1998).

    It combines the Wilson intervals of two independent proportions.
    """
    train, test = run.result.train_error, run.result.test_error
    train_low, train_high = get_train_error_interval(run)
    test_low, test_high = get_test_error_interval(run)
    return (
        test - train - hypot(test - test_low, train_high - train),
        test - train + hypot(test_high - test, train - train_low),
    )


def describe_over_fitting(run: FinishedRun) -> str:
    """Write a sentence that compares the training error with the test error.

    Both are of the saved network, with its running BN statistics.
    """
    train, test = run.result.train_error, run.result.test_error
    digits = choose_percent_digits(run.result.test_images)
    chance = 1 - 1 / run.num_classes
    if run.num_classes > 1 and test >= CHANCE_SHARE * chance:
        error = f"the test error is {format_percent(test, digits)}"
        return describe_guessing(error, f"guessing among {run.num_classes} classes", chance, digits)
    errors = (
        f"the training error is {format_percent(train, digits)}, "
        f"the test error {format_percent(test, digits)}"
    )
    if run.result.test_images is None:
        gap = f"a gap of {format_points(test - train)}" if test >= train else "no gap"
        return f"{capitalize_first(errors)}: {gap}."
    low, high = compute_gap_interval(run)
    if low > 0 or high < 0:
        verdict = "It over-fits" if low > 0 else "No over-fitting"
    elif high > NOTABLE_GAP:
        verdict = "Too few images to tell whether it over-fits"
    else:
        verdict = "No over-fitting is measurable"
    return (
        f"{verdict}: {errors}, {format_points(abs(test - train))} "
        f"{'higher' if test >= train else 'lower'} "
        f"(95 % interval of the gap {format_signed_percent(low)} to {format_signed_percent(high)})."
    )


def describe_run_errors(run: FinishedRun) -> str:
    """Describe what the errors of a run are, and its training error with re-estimated BN."""
    text = f"{ERROR_DEFINITION} All are those of the saved network, with its running BN statistics."
    if run.result.train_error_reestimated is None:
        return text
    error = format_percent(run.result.train_error_reestimated)
    return (
        f"{text} With BN statistics re-estimated with the final weights over up to 5,000 training "
        f"images, the training error is {error}."
    )


def describe_late_training(run: FinishedRun) -> str:
    """Write a sentence if the dev loss rose after its minimum and the training loss fell; or "".

    Both losses must be recorded at both points.
    """
    rows = [
        row
        for row in run.metric_lines
        if row.get("dev_loss") is not None and row.get("loss") is not None
    ]
    if not rows:
        return ""
    best, last = min(rows, key=lambda row: row["dev_loss"] or 0.0), rows[-1]
    best_loss, last_loss = best["dev_loss"] or 0.0, last["dev_loss"] or 0.0
    train_before, train_after = best["loss"] or 0.0, last["loss"] or 0.0
    if last_loss <= RISEN_LOSS * best_loss or train_after >= train_before:
        return ""
    share = (best["step"] or 0.0) / run.result.steps
    errors = ""
    if best.get("dev_error") is not None and last.get("dev_error") is not None:
        before, after = best["dev_error"] or 0.0, last["dev_error"] or 0.0
        errors = f"; the dev error went from {format_percent(before)} to {format_percent(after)}"
    return (
        f"After {format_percent(share, 0)} of training the dev loss rose, from "
        f"{format_three_digits(best_loss)} to {format_three_digits(last_loss)}, while the "
        f"training loss fell from {format_three_digits(train_before)} to "
        f"{format_three_digits(train_after)}{errors}."
    )


def list_error_rows(run: FinishedRun) -> list[tuple[str, str, str, str]]:
    """List the rows (split, right, 95 % interval, images) of a run's table; shares in percent."""
    result, views = run.result, describe_views(run.recipe.get("views"))
    splits = [
        ("training", result.train_error, count_training_images(run)),
        ("dev", result.dev_error, result.dev_images),
        (f"test{views}", result.test_error, result.test_images),
    ]
    rows = []
    for name, error, count in splits:
        if error is None:
            continue
        right, low, high = format_accuracy(error, count)
        rows.append((name, right, f"{low}–{high}" if low else "", f"{count:,}" if count else ""))
    return rows
