"""The verdict on the signals of a network: healthy, or what is wrong and where it begins."""

from math import isfinite

from residua.report.format import NO_VALUE, capitalize_first, format_three_digits, join_with_and
from residua.report.signals_record import SignalsRecord, SignalValues

EVEN_GRADIENT_FACTOR = 10.0  # our choice: a gradient that changes by less stays even
EXTREME_FACTOR = 1e3  # our choice: a variance or gradient that changes by more is extreme
ENDED_PATH_SHARE = 0.1  # our choice: identity paths end where fewer of the stage's are left


def describe_signals_lead(signals: SignalsRecord) -> str:
    """Write the report's lead: whether the net is healthy, or what is wrong and from which unit on.

    A net is healthy if its outputs and gradients are finite, neither vanishes nor explodes, and
    identity paths reach the end of every stage.
    """
    if (overflow_unit := find_overflowing_unit(signals)) is not None:
        name = signals.names[overflow_unit]
        return f"The signal explodes: outputs are not finite in fp32 from {name} on."
    problems = [
        describe_ended_paths(signals),
        describe_extreme_signal(signals),
        describe_extreme_gradient(signals),
    ]
    if any(problems):
        return " ".join(problem for problem in problems if problem)
    if signals.plain:
        return append_gradient_change(
            "Healthy for a plain net, which has no identity path", signals
        )
    return append_gradient_change(f"Healthy: {describe_least_survival(signals)}", signals)


def choose_main_figure(signals: SignalsRecord) -> str:
    """Choose the name of the figure that shows the finding of the lead."""
    if find_path_ends(signals):
        return "path"
    if describe_extreme_signal(signals):
        return "activations"
    return "gradients" if signals.plain or describe_extreme_gradient(signals) else "path"


def append_gradient_change(start: str, signals: SignalsRecord) -> str:
    """Make a sentence of the start of a verdict and of how the gradient's norm changes."""
    growth = compute_gradient_growth(signals)
    if growth is None:
        return f"{start}."
    separator = ":" if ":" not in start else ", and"
    return f"{start}{separator} the gradient's norm {describe_gradient_change(growth)}."


def describe_least_survival(signals: SignalsRecord) -> str:
    """Write a clause with the smallest share of identity paths that pass a stage unclipped."""
    if not any(signals.measured["clip_fraction"]):
        return "no unit clips the identity path"
    shares = get_stage_end_values(signals, signals.measured["survival"]).values()
    known_shares = [share for share in shares if share is not None]
    if not known_shares:
        return "all outputs are finite"
    each = "the stage" if len(known_shares) == 1 else "each stage"
    least = format_signal_percent(min(known_shares))
    or_more = "" if len(known_shares) == 1 else " or more"
    return f"{least}{or_more} of the identity paths pass {each} unclipped"


def find_overflowing_unit(signals: SignalsRecord) -> int | None:
    """Find the index of the first unit whose output is not finite; None if all are finite."""
    return next((i for i, value in enumerate(signals.measured["variance"]) if value is None), None)


def find_path_ends(signals: SignalsRecord) -> dict[int, int]:
    """Map each stage whose identity paths end to the index of the unit where they do.

    They end at the first unit at which fewer than `ENDED_PATH_SHARE` of the paths that entered the
    stage are left.  The dict is empty for a plain net, which has no identity paths.
    """
    ends: dict[int, int] = {}
    for unit, share in enumerate(() if signals.plain else signals.measured["survival"]):
        if share is not None and share < ENDED_PATH_SHARE:
            ends.setdefault(signals.unit_stages[unit], unit)
    return ends


def describe_ended_paths(signals: SignalsRecord) -> str:
    """Write a sentence on the stages whose identity paths end; empty if there is none."""
    ends = find_path_ends(signals)
    if not ends:
        return ""
    least = format_signal_percent(ENDED_PATH_SHARE)
    shares_at_end = get_stage_end_values(signals, signals.measured["survival"])
    clauses = [
        f"stage {stage}: from {signals.names[unit]} on fewer than {least} are unclipped, and "
        f"{format_signal_percent(shares_at_end[stage])} reach the stage's end"
        for stage, unit in ends.items()
    ]
    return f"Identity paths end in {join_with_and(clauses)}."


def describe_extreme_signal(signals: SignalsRecord) -> str:
    """Write a sentence saying that the signal explodes or vanishes; empty if it does neither.

    It does so if the variance of the last unit's output is at least 1,000 times that of the first,
    or at most a thousandth of it.
    """
    first, last = signals.measured["variance"][0], signals.measured["variance"][-1]
    if not first or last is None:
        return ""
    growth = last / first
    if 1 / EXTREME_FACTOR < growth < EXTREME_FACTOR:
        return ""
    verb = "explodes" if growth > 1 else "vanishes"
    return (
        f"The signal {verb}: the variance goes from {format_three_digits(first)} at the first "
        f"unit's output to {format_three_digits(last)} at the last's."
    )


def describe_extreme_gradient(signals: SignalsRecord) -> str:
    """Write a sentence saying that the gradient explodes, vanishes or is not finite; else ""."""
    norms = list_gradient_norms(signals)
    if not norms:
        return "The gradient is not finite."
    growth = compute_gradient_growth(signals)
    if growth is None or 1 / EXTREME_FACTOR < growth < EXTREME_FACTOR:
        return ""
    return capitalize_first(f"the gradient {describe_gradient_growth_in_words(growth, norms)}.")


def describe_gradient_growth_in_words(growth: float, norms: list[float]) -> str:
    """Name the gradient's change and both norms: `explodes: its norm goes from 0.04 at ...`."""
    return (
        f"{name_gradient_growth(growth)}: its norm goes from {format_three_digits(norms[-1])} at "
        f"the last unit's output to {format_three_digits(norms[0])} at the first's"
    )


def list_gradient_norms(signals: SignalsRecord) -> list[float]:
    """List the finite gradient norms of the units' outputs, from input to output."""
    return [value for value in signals.measured["activation_gradient_norm"] if value is not None]


def compute_gradient_growth(signals: SignalsRecord) -> float | None:
    """Compute the gradient norm at the first unit's output divided by that at the last's.

    It is None if fewer than two norms are finite, or if the last is 0.
    """
    norms = list_gradient_norms(signals)
    return norms[0] / norms[-1] if len(norms) > 1 and norms[-1] else None


def name_gradient_growth(growth: float) -> str:
    """Return a verb phrase for the change of the gradient norm, e.g. `vanishes` or `explodes`.

    `growth` is the norm at the first unit divided by the norm at the last.
    """
    if growth >= EXTREME_FACTOR:
        return "explodes"
    if growth <= 1 / EXTREME_FACTOR:
        return "vanishes"
    if 1 / EVEN_GRADIENT_FACTOR <= growth <= EVEN_GRADIENT_FACTOR:
        return f"stays within a factor of {EVEN_GRADIENT_FACTOR:g}"
    return "grows on its way back" if growth > 1 else "shrinks on its way back"


def describe_gradient_change(growth: float) -> str:
    """Write a verb phrase with the factor by which the gradient norm changes on its way back."""
    name = name_gradient_growth(growth)
    factor = max(growth, 1 / growth) if growth else growth
    if name.startswith("stays") or not isfinite(factor):
        return name
    verb = "grows" if growth > 1 else "shrinks"
    return f"{verb} by a factor of {format_three_digits(factor)} on its way back"


def get_stage_end_values(signals: SignalsRecord, values: SignalValues) -> dict[int, float | None]:
    """Return the value at the last unit of each stage, as {stage: value}."""
    return {
        stage: values[signals.last_unit_index(stage)]
        for stage in dict.fromkeys(signals.unit_stages)
    }


def format_signal_percent(share: float | None) -> str:
    """Format a share in [0, 1] to three digits, in percent: `0.0398 %`; None gives a dash."""
    return NO_VALUE if share is None else f"{format_three_digits(100 * share)} %"
