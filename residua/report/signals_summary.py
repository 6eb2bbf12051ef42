"""What a network's signals say, in plain words: every sentence follows from the numbers."""

from math import sqrt

from residua.report.signals_record import SignalsRecord
from residua.report.significance import join_with_and

EVEN_GRADIENT_FACTOR = (
    10.0  # gradients that differ by no more than this factor are called even; our choice
)
EXTREME_GRADIENT_FACTOR = 1e3  # and vanishing or exploding from this factor on


def describe_signals_answer(signals: SignalsRecord) -> str:
    """The answer: what is left of the direct path; where there is none, or nothing finite, what becomes of the gradient."""
    if (overflow_unit := find_overflowing_unit(signals)) is not None:
        return f"The signal explodes: in fp32 it is no finite number any more from {signals.names[overflow_unit]} on."
    if signals.plain:
        return f"A plain net has no direct path. {describe_gradient_growth(signals)}"
    clip_fractions = [value for value in signals.measured["clip_fraction"] if value]
    if not clip_fractions:
        return "Nothing cuts the direct path: what enters a stage arrives at its end, and so does the gradient on its way back."
    stage_end_survival = get_stage_end_values(signals, "survival")
    survival_text = join_with_and(
        [
            f"{format_signal_percent(value)} {'survive ' * (i == 0)}stage {stage}"
            for i, (stage, value) in enumerate(stage_end_survival.items())
        ]
    )
    text = f"Of the direct paths {survival_text}; the ReLU after the addition cuts the others"
    if not signals.predicted:
        return f"{text}."
    predicted_survival = [
        signals.predicted["survival"][signals.last_unit_index(stage)]
        for stage in stage_end_survival
    ]
    return f"{text}. The null model foresees {join_with_and([format_signal_percent(value) for value in predicted_survival])}."


def describe_signals_findings(signals: SignalsRecord) -> list[str]:
    """The other sentences, one a line."""
    sentences = [
        describe_null_model_difference(signals),
        describe_branch_sizes(signals),
        "" if signals.plain else describe_gradient_growth(signals),
        describe_activation_statistics(signals),
        describe_gradient_cosines(signals),
    ]
    return [line for line in sentences if line]


def find_overflowing_unit(signals: SignalsRecord) -> int | None:
    """The first unit whose output is not finite."""
    return next((i for i, value in enumerate(signals.measured["variance"]) if value is None), None)


def describe_null_model_difference(signals: SignalsRecord) -> str:
    """How far the shares of cut sums and of paths left are from the null model's."""
    differences = {
        key: compute_null_model_differences(signals, key) for key in ("clip_fraction", "survival")
    }
    if not all(differences.values()):
        return "The null model says nothing about this design." if not signals.predicted else ""
    if not any(
        value
        for key in differences
        for line in (signals.measured, signals.predicted)
        for value in line[key]
        if value != 1.0
    ):
        return "The null model agrees exactly: no sum is cut, and every path is left."
    clip_text, survival_text = [
        f"{100 * sqrt(sum(d * d for d in gaps) / len(gaps)):.2f} points (root mean square; at most {100 * max(gaps):.2f})"
        for gaps in differences.values()
    ]
    heading = (
        "Training has moved the net away from the null model of its start"
        if signals.trained
        else "Beside the null model"
    )
    return f"{heading}: the share of cut sums differs by {clip_text}, that of surviving paths by {survival_text}."


def compute_null_model_differences(signals: SignalsRecord, signal: str) -> list[float]:
    pairs = zip(signals.measured[signal], signals.predicted.get(signal, ()), strict=False)
    return [abs(a - b) for a, b in pairs if a is not None and b is not None]


def describe_branch_sizes(signals: SignalsRecord) -> str:
    residual_ratios = [
        (name, value)
        for name, value in zip(signals.names, signals.measured["residual_ratio"], strict=True)
        if value is not None
    ]
    if not residual_ratios or signals.plain:
        return ""
    (first, before), (last, after) = residual_ratios[0], residual_ratios[-1]
    if before == after:
        return (
            f"Every branch answers {format_three_digits(after)} times its shortcut."
            if after
            else "Every branch answers 0: the units are identities."
        )
    return f"A branch is {format_three_digits(before)} times its shortcut in {first}, and {format_three_digits(after)} times in {last}."


def describe_gradient_growth(signals: SignalsRecord) -> str:
    """Whether the gradient of activations vanishes or explodes on its way from the last unit to the first."""
    activation_norms = [
        value for value in signals.measured["activation_gradient_norm"] if value is not None
    ]
    weight_norms = [value for value in signals.measured["gradient_norm"] if value is not None]
    if not activation_norms:
        return "The gradient is no finite number."
    if len(activation_norms) < 2 or not activation_norms[-1]:
        return "No gradient comes back."
    growth = activation_norms[0] / activation_norms[-1]
    from_to_text = f"from the last unit's output to the first's the gradient's norm goes from {format_three_digits(activation_norms[-1])} to {format_three_digits(activation_norms[0])}"
    if growth >= EXTREME_GRADIENT_FACTOR:
        sentence = f"The gradient explodes: {from_to_text}"
    elif growth <= 1 / EXTREME_GRADIENT_FACTOR:
        sentence = f"The gradient vanishes: {from_to_text}"
    elif 1 / EVEN_GRADIENT_FACTOR <= growth <= EVEN_GRADIENT_FACTOR:
        sentence = f"The gradient stays within a factor of {EVEN_GRADIENT_FACTOR:g}: {from_to_text}"
    else:
        sentence = (
            f"The gradient {'grows' if growth > 1 else 'shrinks'} on its way back: {from_to_text}"
        )
    if weight_norms and min(weight_norms) > 0:
        sentence += f"; norms of the units' weights differ by a factor of up to {format_three_digits(max(weight_norms) / min(weight_norms))}"
    return f"{sentence}."


def describe_activation_statistics(signals: SignalsRecord) -> str:
    mean, variance = signals.measured["mean"], signals.measured["variance"]
    if find_overflowing_unit(signals) is not None:
        return ""
    heading = ""
    if (
        mean[0] is not None
        and variance[0]
        and variance[-1] is not None
        and not 1 / EXTREME_GRADIENT_FACTOR < variance[-1] / variance[0] < EXTREME_GRADIENT_FACTOR
    ):
        heading = (
            "The signal vanishes on its way. "
            if variance[-1] < variance[0]
            else "The signal explodes on its way. "
        )
    return (
        f"{heading}From the first unit's output to the last's the mean goes from {format_three_digits(mean[0])} to {format_three_digits(mean[-1])}, "
        f"the variance from {format_three_digits(variance[0])} to {format_three_digits(variance[-1])}."
    )


def describe_gradient_cosines(signals: SignalsRecord) -> str:
    """How much of the direction of the gradient at a stage's end is there at its beginning."""
    stage_cosines = {
        stage: signals.measured["gradient_cosine"][signals.unit_stages.index(stage)]
        for stage in dict.fromkeys(signals.unit_stages)
    }
    finite_cosines = {
        stage: value
        for stage, value in stage_cosines.items()
        if value is not None and signals.last_unit_index(stage) > signals.unit_stages.index(stage)
    }
    if not finite_cosines:
        return ""
    cosine_text = join_with_and(
        [f"{value:.2f} in stage {stage}" for stage, value in finite_cosines.items()]
    )
    return (
        f"The gradient at a stage's first unit and that at its last have a cosine of {cosine_text}."
    )


def get_stage_end_values(signals: SignalsRecord, signal: str) -> dict[int, float | None]:
    return {
        stage: signals.measured[signal][signals.last_unit_index(stage)]
        for stage in dict.fromkeys(signals.unit_stages)
    }


def format_signal_percent(value: float | None) -> str:
    return "–" if value is None else f"{format_three_digits(100 * value)} %"


def format_three_digits(value: float | None) -> str:
    """Three digits: `0.0398`, `12.3`, `1,250`, `3.2e-12`."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1000 and size < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"
