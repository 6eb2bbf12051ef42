"""The results of a lesion study as text: the findings, and all errors for the terminal."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import sqrt
from statistics import median
from textwrap import fill

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    RandomDeletionResult,
    RandomSwapResult,
    UnitDeletionResult,
    central_length_range,
    share_of_paths_by_length,
)
from residua.report.format import (
    NO_BREAK_SPACE,
    format_counted_noun,
    format_percent_number,
    format_percent_number_with_sd,
    format_percent_with_sd,
    join_with_and,
)

SMALL_RISE = 0.01  # our choice: a deletion that costs at most one point counts as harmless
SUMMARY_WIDTH = 100  # columns of a terminal


def describe_lesion_study(study: LesionStudyResult) -> list[str]:
    """Describe the findings of a lesion study as a list of texts.

    The first text gives the median error of each net without one unit.  The next texts are the
    findings of each net, as `label: finding`.  The last text gives the standard error of the first
    net's error.
    """
    findings = [
        f"{net.label}: {finding}" for net in study.nets for finding in describe_net_findings(net)
    ]
    first_error = study.nets[0].error
    standard_error = sqrt(first_error * (1 - first_error) / study.images)
    return [
        f"Removing one unit leaves {describe_median_errors(study.nets)}.",
        *findings,
        f"An error of {format_percent_number(first_error)} % on {study.images:,} images "
        f"has a standard error of {format_percent_number(standard_error)} points.",
    ]


def describe_lesion_answer(study: LesionStudyResult) -> str:
    """Write the lead: what removing one unit adds to the error of each net, as a median."""
    first, *others = [
        (round(100 * (net.median_deletion_error - net.error), 1) + 0.0, net.label)  # no -0.0
        for net in study.nets
    ]
    additions = [
        f"{first[0]:.1f} points to the error of {first[1]}",
        *(f"{points:.1f} to that of {label}" for points, label in others),
    ]
    medians = "medians over its units" if not others else "medians over their units"
    return f"Removing one unit adds {join_with_and(additions)} ({medians})."


def describe_median_errors(nets: Sequence[NetworkLesionResult]) -> str:
    """Describe each net's median error after deleting one unit, and its error when intact."""
    first_net, *other_nets = nets
    return join_with_and(
        [
            f"{first_net.label} at a median error of {format_deletion_and_intact_error(first_net)}",
            *(f"{net.label} at {format_deletion_and_intact_error(net)}" for net in other_nets),
        ]
    )


def format_deletion_and_intact_error(net: NetworkLesionResult) -> str:
    """Format median error after one deletion, and intact error: `13.5 % (intact 11.6 %)`."""
    deletion_error = format_percent_number(net.median_deletion_error)
    return f"{deletion_error} % (intact {format_percent_number(net.error)} %)"


def describe_net_findings(net: NetworkLesionResult) -> list[str]:
    """Write a text for each of single deletions, random deletions, swaps and paths, if measured."""
    single_deletions = [
        describe_single_deletions(net),
        describe_shape_changing_units(net),
        describe_undeletable_units(net),
    ]
    findings = [
        " ".join(sentence for sentence in single_deletions if sentence),
        describe_random_deletions(net),
        describe_random_swaps(net),
        describe_gradient_paths(net),
    ]
    return [finding for finding in findings if finding]


def describe_single_deletions(net: NetworkLesionResult) -> str:
    """Write a sentence on how many single deletions are harmless, and on the worst one.

    A deletion is harmless if it raises the error by at most one percentage point.
    """
    rounding_error = 1e-9
    harmless_count = sum(
        error - net.error <= SMALL_RISE + rounding_error for error in net.deletion_errors
    )
    worst = net.worst_deletion
    return (
        f"{harmless_count} of {format_counted_noun(len(net.deletion_errors), 'single deletion')} "
        f"{'raises' if harmless_count == 1 else 'raise'} the error by at most one point; "
        f"the worst, {worst.name}, raises it to {format_percent_number(worst.error)} %."
    )


def describe_shape_changing_units(net: NetworkLesionResult) -> str:
    errors = get_shape_changing_errors(net)
    if not errors:
        return ""
    median_error = format_percent_number(median(errors))
    return f"Without a shape-changing unit the median error is {median_error} %."


def describe_undeletable_units(net: NetworkLesionResult) -> str:
    count = len(net.units) - len(net.deletion_errors)
    if not count:
        return ""
    subject = format_counted_noun(count, "unit")
    return (
        f"{subject} {'changes' if count == 1 else 'change'} the shape "
        "and cannot be deleted, as the net has no shortcuts."
    )


def describe_random_deletions(net: NetworkLesionResult) -> str:
    errors = [
        f"{format_drawn_error(deletion)} without {deletion.deleted}"
        for deletion in net.thinned
        if deletion.deleted in (2, 4, 8)
    ]
    return f"with random units deleted, the error is {join_with_and(errors)}." if errors else ""


def describe_random_swaps(net: NetworkLesionResult) -> str:
    """Write a sentence with the errors after 1 and 4 random swaps; empty if they were not measured.

    Each error comes with Kendall's tau, the rank correlation between the new and the original order
    of the units.  Tau is 1 if the orders are equal.
    """
    errors = [
        f"{format_drawn_error(swap)} "
        f"after {format_counted_noun(swap.swaps, 'swap')} (tau {swap.tau:.2f})"
        for swap in net.swapped
        if swap.swaps in (1, 4)
    ]
    return f"with random units swapped, the error is {join_with_and(errors)}." if errors else ""


def format_drawn_error(sample: RandomDeletionResult | RandomSwapResult) -> str:
    """Format the mean error over the draws with their range: `17.2 % (3.1 to 60.2 %)`.

    Records without the range have the standard deviation instead: `17.2 ± 24.6 %`.
    """
    if sample.error_range is None:
        return format_percent_with_sd(sample.error, sample.error_sd)
    low, high = map(format_percent_number, sample.error_range)
    return f"{format_percent_number(sample.error)} % ({low} to {high} %)"


def compute_error_spread(
    sample: RandomDeletionResult | RandomSwapResult,
) -> tuple[float, float] | None:
    """Compute the spread of the error over the draws, inside [0, 1]; None for a single draw.

    It is the range of the errors.  In records without the range it is one standard deviation on
    each side of the mean, cut off at 0 and 1.
    """
    if sample.error_range is not None or sample.error_sd is None:
        return sample.error_range
    return max(0.0, sample.error - sample.error_sd), min(1.0, sample.error + sample.error_sd)


def describe_gradient_paths(net: NetworkLesionResult) -> str:
    """Write a sentence on the path lengths that carry 90 % of the gradient; "" for a plain net."""
    if not net.paths:
        return ""
    (low, high), unit_count = central_length_range(net.paths), len(net.units)
    path_percent = 100 * sum(share_of_paths_by_length(unit_count)[low : high + 1])
    path_text = f"{path_percent:.0f}" if path_percent >= 10 else f"{path_percent:.2g}"
    return (
        f"90 % of the gradient comes through paths of {low} to {high} of the {unit_count} units; "
        f"{path_text} % of all paths have these lengths."
    )


def get_shape_changing_errors(net: NetworkLesionResult) -> list[float]:
    """Return the error without each unit that changes the shape and can be deleted, one by one."""
    return [unit.error for unit in net.units if unit.changes_shape and unit.error is not None]


def format_lesion_for_terminal(study: LesionStudyResult) -> list[str]:
    """Format lines for the terminal: each net's errors in percent, then the study's findings."""
    lines = [
        f"{study.images:,} {study.split} images of {study.dataset}; "
        "errors in percent, * marks units that change the shape"
    ]
    for net in study.nets:
        lines += ["", *format_net_errors(net)]
    return [*lines, "", *describe_lesion_study(study)]


def format_net_errors(net: NetworkLesionResult) -> list[str]:
    """Format a net's errors as lines: without each unit, then after random deletions and swaps."""
    lines = [f"{net.label}: intact {format_percent_number(net.error)}; without one unit:"]
    for stage, units in groupby(net.units, key=lambda unit: unit.stage):
        lines.append(wrap_labelled_text(f"stage{stage}", " ".join(map(format_unit_error, units))))
    deletions = ((many.deleted, many.error, many.error_sd) for many in net.thinned)
    lines.append(wrap_labelled_text("deleted", format_error_series(deletions)))
    if net.swapped:
        swaps = ((many.swaps, many.error, many.error_sd) for many in net.swapped)
        lines.append(wrap_labelled_text("swaps", format_error_series(swaps)))
    return lines


def format_unit_error(unit: UnitDeletionResult) -> str:
    """Format the error in percent without a unit, e.g. `7.0`; an asterisk marks a change of shape.

    The text is `7.0*` for a unit that changes the shape, and `–*` if such a unit cannot be deleted.
    """
    return format_percent_number(unit.error) + ("*" if unit.changes_shape else "")


def format_error_series(counts_and_errors: Iterable[tuple[int, float, float | None]]) -> str:
    """Write (count, error, sd) tuples as `1: 9.0 ± 1.2, 2: ...`, in percent.

    Errors and sds are in [0, 1].  Spaces inside an entry are no-break spaces.
    """
    entries = (
        f"{count}: {format_percent_number_with_sd(error, sd)}"
        for count, error, sd in counts_and_errors
    )
    return ", ".join(entry.replace(" ", NO_BREAK_SPACE) for entry in entries)


def wrap_labelled_text(label: str, text: str) -> str:
    """Wrap the text to the terminal's width: the label comes first, and all lines are indented."""
    lines = fill(text, SUMMARY_WIDTH, initial_indent=f"  {label:9}", subsequent_indent=" " * 11)
    return lines.replace(NO_BREAK_SPACE, " ")
