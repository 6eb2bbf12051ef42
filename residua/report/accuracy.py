"""The share of right images as text, with its 95 % interval, and against that of guessing."""

from typing import NamedTuple

from residua.config.evaluation_results import wilson_interval
from residua.report.format import choose_percent_digits, format_percent, format_percent_number


class AccuracyText(NamedTuple):
    """A share of right images and the ends of its 95 % interval, in percent without the sign.

    The ends are "" if the number of images is unknown.
    """

    right: str
    low: str = ""
    high: str = ""


def format_accuracy(error: float, image_count: int | None) -> AccuracyText:
    """Format an error in [0, 1] as the share of right images, with its Wilson interval."""
    digits = choose_percent_digits(image_count)
    right = format_percent_number(1 - error, digits)
    if not image_count or image_count < 0:
        return AccuracyText(right)
    interval = wilson_interval(image_count - round(error * image_count), image_count)
    return AccuracyText(right, *(format_percent_number(limit, digits) for limit in interval))


def describe_guessing(
    error: str, guess: str, guess_error: float, digits: int, *, is_possible_gain: bool = False
) -> str:
    """Write the sentence on a network that does no better than guessing.

    `error` says what the error is, and `guess` names the guess, as `guessing among 2 classes`, with
    its error `guess_error` in [0, 1].  With `is_possible_gain` the network's error is lower, but
    not by more than chance explains.
    """
    limit = ", as far as these images tell" if is_possible_gain else ""
    guessing = f"{guess} gives {format_percent(guess_error, digits)}"
    return f"It does no better than guessing{limit}: {error}, and {guessing}."
