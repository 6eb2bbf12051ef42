"""Numbers, counts and lists as text for people.

Only this module turns a share in [0, 1] into percent, and knows the unit of each number: percent,
percentage points, a count of things, or time.  All functions are pure and import nothing.
"""

from collections.abc import Sequence

NO_VALUE = "–"  # stands in a table where there is no number
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def format_percent_number(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in percent, without `%`, for tables: `12.3`; a dash for None."""
    return NO_VALUE if share is None else f"{100 * share:.{digits}f}"


def format_percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as `12.3 %`; a positive share that rounds to zero is `below 0.1 %`."""
    smallest = 10.0**-digits
    if 0 < 100 * share < smallest / 2:
        return f"below {smallest:.{digits}f} %"
    return f"{format_percent_number(share, digits)} %"


def format_exact_percent(share: float) -> str:
    """A setting in [0, 1] in percent, with all its digits: `20 %`, `0.25 %`."""
    return f"{100 * share:g} %"


def format_percent_number_with_sd(mean: float, sd: float | None, digits: int = 1) -> str:
    """A mean share and its standard deviation in percent, without the percent sign: `17.3 ± 2.1`.

    A mean of one seed has no standard deviation, and is printed alone.
    """
    number = format_percent_number(mean, digits)
    return number if sd is None else f"{number} ± {format_percent_number(sd, digits)}"


def format_percent_with_sd(mean: float, sd: float | None, digits: int = 1) -> str:
    """A mean share and its standard deviation: `17.3 ± 2.1 %`, or `17.3 %` if there is none."""
    if sd is None:
        return format_percent(mean, digits)
    return f"{format_percent_number_with_sd(mean, sd, digits)} %"


def format_confidence_interval(interval: tuple[float, float], digits: int = 1) -> str:
    """The limits of a share's 95 % confidence interval: `95 % CI 37.2-45.8 %`."""
    low, high = (format_percent_number(limit, digits) for limit in interval)
    return f"95 % CI {low}-{high} %"


def format_points(difference: float) -> str:
    """A difference of two shares in percentage points: `4.1 points`."""
    return f"{100 * difference:.1f} points"


def format_three_digits(value: float | None) -> str:
    """A number to three significant digits: `0.0398`, `12.3`, `1,250`, `3.2e-12`; dash for None."""
    if value is None:
        return NO_VALUE
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def format_counted_noun(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun in the right number: `1 image`, `1,200 images`.

    `plural` is needed only if the noun does not just take an s: `classes`.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def format_duration(seconds: float) -> str:
    """A time in the unit that suits it: `119 s`, `12 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def join_with_and(words: Sequence[str]) -> str:
    """Join words as in a sentence: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capitalize_first(text: str) -> str:
    """The text with a capital first letter; `str.capitalize` would lower all other letters."""
    return text[:1].upper() + text[1:]


def make_percent_nonbreaking(sentence: str) -> str:
    """Prevent line breaks inside values such as `17.3 ± 2.1 %` in the sentence, for HTML."""
    unbroken_signs = sentence.replace(" %", f"{NO_BREAK_SPACE}%")
    return unbroken_signs.replace(" ± ", f"{NO_BREAK_SPACE}±{NO_BREAK_SPACE}")
