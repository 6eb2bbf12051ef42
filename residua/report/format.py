"""Functions that write numbers, counts and lists as text for people.

They give numbers their units: percent, percentage points, a count of things, or time.  The table
`QUANTITY_FORMATS` says how each quantity that commands print is written.  All functions are pure,
and the module imports no other module of residua.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any

NO_VALUE = "–"  # stands in a table where a number is missing
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
MINUS_SIGN = "\N{MINUS SIGN}"


def format_percent_number(share: float | None, digits: int = 1) -> str:
    """Format a share in [0, 1] in percent without the sign, for tables: `12.3`; None is a dash."""
    return NO_VALUE if share is None else f"{100 * share:.{digits}f}"


def format_percent(share: float, digits: int = 1) -> str:
    """Format a share in [0, 1] as `12.3 %`; one that would round to zero is `below 0.1 %`."""
    smallest = 10.0**-digits
    if 0 < 100 * share < smallest / 2:
        return f"below {smallest:.{digits}f} %"
    return f"{format_percent_number(share, digits)} %"


def format_shortest_percent(share: float) -> str:
    """Format a share in [0, 1] as a percentage with only the digits it needs: `20 %`, `0.25 %`.

    At most six significant digits are written.
    """
    return f"{100 * share:g} %"


def format_percent_number_with_sd(mean: float, sd: float | None, digits: int = 1) -> str:
    """Format a mean and its standard deviation as percentages without the sign: `17.3 ± 2.1`.

    Both are in [0, 1].  The mean is written alone if `sd` is None, as it is for a single seed.
    """
    number = format_percent_number(mean, digits)
    return number if sd is None else f"{number} ± {format_percent_number(sd, digits)}"


def format_percent_with_sd(mean: float, sd: float | None, digits: int = 1) -> str:
    """Format a mean and its standard deviation in percent: `17.3 ± 2.1 %`; without sd, `17.3 %`.

    Both are in [0, 1].
    """
    if sd is None:
        return format_percent(mean, digits)
    return f"{format_percent_number_with_sd(mean, sd, digits)} %"


def format_error_with_spread(mean: float, sd: float | None, seeds: int) -> str:
    """Format a mean error in percent, with its spread: `2.5 % (2.0 to 3.0 %)` for two seeds.

    With three or more it is `2.5 ± 0.7 %`.  `mean` and `sd` are in [0, 1].
    """
    if seeds == 2 and sd is not None:
        return f"{format_percent(mean)} ({format_two_seed_range(mean, sd)} %)"
    return format_percent_with_sd(mean, sd)


def format_two_seed_range(mean: float, sd: float) -> str:
    """Format the values of two seeds in percent, `2.0 to 3.0`, from their mean and sd in [0, 1]."""
    half_range = sd / sqrt(2)
    low, high = (format_percent_number(mean + sign * half_range) for sign in (-1, 1))
    return f"{low} to {high}"


def format_confidence_interval(interval: tuple[float, float], digits: int = 1) -> str:
    """Format a 95 % confidence interval, given in [0, 1], in percent: `95 % CI 37.2-45.8 %`."""
    low, high = (format_percent_number(limit, digits) for limit in interval)
    return f"95 % CI {low}-{high} %"


def format_points(difference: float) -> str:
    """Format a difference of two shares in [0, 1], in percentage points: `4.1 points`."""
    return f"{100 * difference:.1f} points"


def format_signed_percent(difference: float) -> str:
    """Format a difference of shares in percent, without the sign %, and with a true minus sign."""
    return f"{100 * difference:.1f}".replace("-", MINUS_SIGN)


def format_three_digits(value: float | None) -> str:
    """Format a number to three significant digits: `0.0398`, `12.3`, `3.2e-12`; None gives a dash.

    Absolute values from 1,000 up to a million are rounded to an integer instead: `1,250`.
    """
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def format_counted_noun(count: int, noun: str, plural: str = "") -> str:
    """Format a count with its noun in the singular or plural: `1 image`, `1,200 images`.

    `plural` is needed only if the plural is not the noun plus s, e.g. `classes`.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def format_duration(seconds: float) -> str:
    """Format a duration in suitable units: `119 s`, `12 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_error(share: float) -> str:
    """Format a share in [0, 1] of wrong predictions, in percent: `8.75 %`."""
    return format_percent(share, digits=2)


def format_integer(value: int) -> str:
    """Format a whole number with commas between thousands: `1,438`."""
    return f"{value:,}"


def format_mebibytes(byte_count: int) -> str:
    """Format a number of bytes in MiB: `12.3 MiB`."""
    return f"{byte_count / 2**20:,.1f} MiB"


def format_rate(per_second: float) -> str:
    """Format a number of items per second: `1,250/s`."""
    return f"{format_three_digits(per_second)}/s"


def format_milliseconds(milliseconds: float) -> str:
    """Format a short time: `2.6 ms`, `139 ms`."""
    return f"{format_three_digits(milliseconds)} ms"


def format_lr_changes(changes: Sequence[Mapping[str, Any]]) -> str:
    """Format learning rates with their first steps: `0.1 from step 0, 0.01 from step 500`."""
    return ", ".join(f"{change['lr']:.4g} from step {change['step']:,}" for change in changes)


def format_lr_factors(factors: Sequence[Mapping[str, Any]]) -> str:
    """Format factors on the learning rate: `last layer 1, stage 3 0.1, stem 0.05`."""
    return ", ".join(f"{factor['part']} {factor['factor']:.3g}" for factor in factors)


def format_image_sizes(sizes: Sequence[Mapping[str, Any]]) -> str:
    """Format image sizes with their first steps: `112 x 112 from step 0, 224 x 224 from step 9`."""
    return ", ".join(
        f"{size['height']} x {size['width']} from step {size['step']:,}" for size in sizes
    )


def format_yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


NAMES_BY_FORMAT: dict[Callable[[Any], str], str] = {
    format_error: "error top5_error train_error train_error_reestimated dev_error best_dev_error "
    "test_error",
    format_percent: "ece scaled_ece data_wait",
    format_three_digits: "loss train_loss dev_loss lr epochs",
    format_integer: "steps depth parameters training_images dev_images test_images batch_size "
    "patches_per_image descriptor_numbers probe_steps",
    format_mebibytes: "activation_bytes memory_bytes memory_activations_bytes memory_weights_bytes "
    "memory_data_bytes descriptor_bytes peak_memory_bytes",
    format_duration: "seconds estimated_seconds",
    format_rate: "images_per_second",
    format_milliseconds: "milliseconds",
    format_confidence_interval: "dev_error_interval test_error_interval",
    format_lr_changes: "learning_rates",
    format_lr_factors: "lr_factors",
    format_image_sizes: "image_sizes",
    format_yes_or_no: "trained",
    str: "model data recipe recompute precision weight_decay_on folder weights_from page "
    "evaluation_page",
}
QUANTITY_FORMATS = {
    name: format_value for format_value, names in NAMES_BY_FORMAT.items() for name in names.split()
}
LABELS = {
    "train_error_reestimated": "train error (BN statistics re-estimated)",
    "train_loss": "train loss (BN statistics re-estimated)",
    "top5_error": "top-5 error",
    "activation_bytes": "saved activations (fp32)",
    "memory_bytes": "memory (estimate)",
    "memory_activations_bytes": "memory: activations",
    "memory_weights_bytes": "memory: weights",
    "memory_data_bytes": "memory: images",
    "peak_memory_bytes": "peak memory",
    "descriptor_bytes": "memory: descriptors",
    "descriptor_numbers": "numbers in a descriptor",
    "estimated_seconds": "estimated time",
    "seconds": "training time",
    "milliseconds": "time of a step",
    "data_wait": "time waiting for data",
    "recompute": "activation checkpointing",
    "lr_factors": "factors on learning rates",
}
"""The labels of quantities whose name, with spaces, would not be clear to a reader."""
IMAGE_COUNT_OF_ERROR = {
    "dev_error": "dev_images",
    "best_dev_error": "dev_images",
    "test_error": "test_images",
}
MIN_LABEL_WIDTH = 23
PRECISE_IMAGE_COUNT = 2000  # from which an error is written in hundredths of a percent


def choose_percent_digits(image_count: int | None) -> int:
    """Choose the decimals of an error in percent: two of many images, else one; None is unknown."""
    return 2 if image_count is not None and image_count >= PRECISE_IMAGE_COUNT else 1


def format_quantity(name: str, value: object) -> str:
    """Format the value of the quantity `name` with its unit; None gives a dash.

    A name that is not in `QUANTITY_FORMATS` has no unit: its value is written as it is.
    """
    return NO_VALUE if value is None else QUANTITY_FORMATS.get(name, str)(value)


def format_quantities(quantities: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each quantity: its label and its value, in two columns.

    The number of images and the confidence interval of an error stand on the line of the error, as
    in `4.2 % (95 % CI 2.0-8.5 %, 160 images)`, and not on lines of their own.
    """
    counts = {
        error: count
        for error, count in IMAGE_COUNT_OF_ERROR.items()
        if error in quantities and count in quantities
    }
    merged = {f"{error}_interval" for error in counts} | set(counts.values())
    shown = {name: value for name, value in quantities.items() if name not in merged}
    labels = {name: LABELS.get(name, name.replace("_", " ")) for name in shown}
    width = max([MIN_LABEL_WIDTH, *map(len, labels.values())])
    for name, value in shown.items():
        if name in counts and value is not None:
            interval = quantities.get(f"{name}_interval")
            text = format_measured_error(value, quantities[counts[name]], interval)
        else:
            text = format_quantity(name, value)
        yield f"{labels[name]:{width}}  {text}"


def format_measured_error(
    error: float, image_count: int, interval: tuple[float, float] | None = None
) -> str:
    """Format an error in [0, 1] and its images: `4.2 % (95 % CI 2.0-8.5 %, 160 images)`."""
    digits = choose_percent_digits(image_count)
    images = format_counted_noun(image_count, "image")
    details = [format_confidence_interval(interval, digits), images] if interval else [images]
    return f"{format_percent(error, digits)} ({', '.join(details)})"


def join_with_and(words: Sequence[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capitalize_first(text: str) -> str:
    """Return the text with its first letter capitalized and all other letters unchanged.

    `str.capitalize` would make the other letters lower case.
    """
    return text[:1].upper() + text[1:]


def make_percent_nonbreaking(sentence: str) -> str:
    """Replace the spaces inside values such as `17.3 ± 2.1 %` by no-break spaces, for HTML."""
    unbroken_signs = sentence.replace(" %", f"{NO_BREAK_SPACE}%")
    return unbroken_signs.replace(" ± ", f"{NO_BREAK_SPACE}±{NO_BREAK_SPACE}")


def quote_path(path: object) -> str:
    """Quote a path for a shell; a path that begins like an option gets `./` in front."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
