"""What a lesion study's numbers say, in plain words and in lines for a terminal."""

from collections.abc import Iterable
from itertools import groupby
from math import sqrt
from statistics import median
from textwrap import fill

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    central_length_range,
    share_of_paths_by_length,
)

SMALL_RISE = 0.01  # a rise that hardly counts: our choice, one point
SUMMARY_WIDTH = 100  # columns of a terminal
NONBREAKING_SPACE = "\N{NO-BREAK SPACE}"


def describe_lesion_study(lesion_study: LesionStudyResult) -> list[str]:
    """A sentence or two a line: first what the loss of one unit costs, then each net, then how sure that is."""
    median_errors = ", ".join(
        describe_median_error(net, i == 0) for i, net in enumerate(lesion_study.nets)
    )
    net_findings = [
        f"{net.label}: {finding}"
        for net in lesion_study.nets
        for finding in describe_net_findings(net)
    ]
    first_error = lesion_study.nets[0].error
    return [
        f"Without one of its units, {median_errors}.",
        *net_findings,
        f"An error of {format_percent_number(first_error)} % of {lesion_study.images:,} images has a standard error of "
        f"{format_percent_number(sqrt(first_error * (1 - first_error) / lesion_study.images))} points.",
    ]


def describe_median_error(net: NetworkLesionResult, is_first: bool) -> str:
    wrong, of_what = ("is wrong about", " of the images") if is_first else ("about", "")
    return f"{net.label} {wrong} {format_percent_number(net.median_deletion_error)} %{of_what} in the median ({format_percent_number(net.error)} % whole)"


def describe_net_findings(net: NetworkLesionResult) -> list[str]:
    """Of single deletions, deletions at random, swaps, paths, where there are any."""
    deletion_text = " ".join(
        filter(
            None,
            (
                describe_single_deletions(net),
                describe_shape_changing_units(net),
                describe_undeletable_units(net),
            ),
        )
    )
    several_deleted = [
        f"{format_error_with_sd(many.error, many.error_sd)} without {many.deleted}"
        for many in net.thinned
        if many.deleted in (2, 4, 8)
    ]
    swap_texts = [
        f"{format_error_with_sd(many.error, many.error_sd)} after {format_counted_noun(many.swaps, 'swap')} (tau {many.tau:.2f})"
        for many in net.swapped
        if many.swaps in (1, 4)
    ]
    return [
        deletion_text,
        *(
            [f"with several units deleted at random, {', '.join(several_deleted)}."]
            if several_deleted
            else []
        ),
        *([f"with units in each other's places, {', '.join(swap_texts)}."] if swap_texts else []),
        *([describe_gradient_paths(net)] if net.paths else []),
    ]


def describe_single_deletions(net: NetworkLesionResult) -> str:
    harmless_count, worst_deletion = (
        sum(error - net.error <= SMALL_RISE + 1e-9 for error in net.deletion_errors),
        net.worst_deletion,
    )
    cost = "costs" if harmless_count == 1 else "cost"
    return (
        f"{harmless_count} of {format_counted_noun(len(net.deletion_errors), 'deletion')} {cost} at most one point; "
        f"the worst, of {worst_deletion.name}, leaves {format_percent_number(worst_deletion.error or 0)} %."
    )


def describe_shape_changing_units(net: NetworkLesionResult) -> str:
    shape_change_errors = get_shape_changing_errors(net)
    return (
        f"Without a unit that changes the shape: {format_percent_number(median(shape_change_errors))} % in the median."
        if shape_change_errors
        else ""
    )


def describe_undeletable_units(net: NetworkLesionResult) -> str:
    count = len(net.units) - len(net.deletion_errors)
    if not count:
        return ""
    change, them = ("change", "them") if count > 1 else ("changes", "it")
    return f"{format_counted_noun(count, 'unit')} {change} the shape, and nothing can stand in for {them}."


def describe_gradient_paths(net: NetworkLesionResult) -> str:
    (low, high), num_units = central_length_range(net.paths), len(net.units)
    path_percent = 100 * sum(share_of_paths_by_length(num_units)[low : high + 1])
    of_all = f"{path_percent:.0f}" if path_percent >= 10 else f"{path_percent:.2g}"
    return (
        f"nine tenths of the gradient come by paths through {low} to {high} of the {num_units} units; "
        f"{of_all} % of all paths are of these lengths."
    )


def get_shape_changing_errors(net: NetworkLesionResult) -> list[float]:
    """The errors without each of the units that change the shape."""
    return [unit.error for unit in net.units if unit.changes_shape and unit.error is not None]


def format_lesion_for_terminal(lesion_study: LesionStudyResult) -> list[str]:
    """For a terminal: the errors in percent without each unit, stage by stage, after random choices, and the verdict."""
    output_lines = [
        f"{lesion_study.images:,} {lesion_study.split} images of {lesion_study.dataset}; errors in percent, * where a unit changes the shape"
    ]
    for net in lesion_study.nets:
        output_lines += [
            "",
            f"{net.label}: {format_percent_number(net.error)} whole; without one unit:",
        ]
        for stage, units in groupby(net.units, key=lambda unit: unit.stage):
            cells = [
                ("–" if u.error is None else format_percent_number(u.error))
                + ("*" if u.changes_shape else "")
                for u in units
            ]
            output_lines.append(wrap_labelled_text(f"stage{stage}", " ".join(cells)))
        output_lines.append(
            wrap_labelled_text(
                "deleted",
                format_error_series(
                    (many.deleted, many.error, many.error_sd) for many in net.thinned
                ),
            )
        )
        if net.swapped:
            output_lines.append(
                wrap_labelled_text(
                    "swaps",
                    format_error_series(
                        (many.swaps, many.error, many.error_sd) for many in net.swapped
                    ),
                )
            )
    return [*output_lines, "", *describe_lesion_study(lesion_study)]


def format_error_series(counts_and_errors: Iterable[tuple[int, float, float | None]]) -> str:
    unbroken_texts = (
        f"{count}: {format_error_with_sd(error, sd)}".removesuffix(" %").replace(
            " ", NONBREAKING_SPACE
        )
        for count, error, sd in counts_and_errors
    )
    return ", ".join(unbroken_texts)


def wrap_labelled_text(label: str, text: str) -> str:
    return fill(
        text, SUMMARY_WIDTH, initial_indent=f"  {label:9}", subsequent_indent=" " * 11
    ).replace(NONBREAKING_SPACE, " ")


def format_error_with_sd(error: float, sd: float | None) -> str:
    """`17.3 ± 2.1 %`."""
    return format_percent_number(error) + (
        f" ± {format_percent_number(sd)} %" if sd is not None else " %"
    )


def format_percent_number(error: float) -> str:
    """In percent, without the sign."""
    return f"{100 * error:.1f}"


def format_counted_noun(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
