"""Text on the signals of a network; every sentence follows from the record's numbers."""

from math import sqrt

from residua.report.format import NO_VALUE, format_three_digits, join_with_and
from residua.report.signals_record import SignalsRecord, SignalValues

EVEN_GRADIENT_FACTOR = 10.0  # our choice: a gradient that changes by less stays even
EXTREME_GRADIENT_FACTOR = 1e3  # our choice: one that changes by more vanishes or explodes


def describe_signals_answer(signals: SignalsRecord) -> str:
    """The lead of the report: the share of identity paths that pass each stage unclipped.

    If activations overflow, the text says so instead.  For a net without shortcuts it describes how
    the gradient changes.
    """
    if (overflow_unit := find_overflowing_unit(signals)) is not None:
        name = signals.names[overflow_unit]
        return f"The signal explodes: outputs are not finite in fp32 from {name} on."
    if signals.plain:
        return f"A plain net has no identity path. {describe_gradient_growth(signals)}"
    if not any(signals.measured["clip_fraction"]):
        return (
            "No unit clips the identity path: a stage's input reaches the stage's end unchanged, "
            "and so does the gradient on the way back."
        )
    return describe_path_survival(signals)


def describe_path_survival(signals: SignalsRecord) -> str:
    """Text on the measured and predicted share of identity paths that no unit of a stage clips."""
    survival_by_stage = get_stage_end_values(signals, signals.measured["survival"])
    (first_stage, first_share), *later_shares = survival_by_stage.items()
    survival_text = join_with_and(
        [
            f"{format_signal_percent(first_share)} of identity paths "
            f"pass stage {first_stage} unclipped",
            *(
                f"{format_signal_percent(share)} pass stage {stage}"
                for stage, share in later_shares
            ),
        ]
    )
    sentence = f"{survival_text}; the post-addition ReLU clips the others."
    if not signals.predicted:
        return sentence
    predicted_by_stage = get_stage_end_values(signals, signals.predicted["survival"])
    predicted_text = join_with_and(
        [format_signal_percent(share) for share in predicted_by_stage.values()]
    )
    return f"{sentence} The random-walk model predicts {predicted_text}."


def describe_signals_findings(signals: SignalsRecord) -> list[str]:
    """The findings of the report that follow its lead, one text each."""
    sentences = [
        describe_null_model_difference(signals),
        describe_branch_sizes(signals),
        "" if signals.plain else describe_gradient_growth(signals),
        describe_activation_statistics(signals),
        describe_gradient_cosines(signals),
    ]
    return [sentence for sentence in sentences if sentence]


def find_overflowing_unit(signals: SignalsRecord) -> int | None:
    """The index of the first unit whose output is not finite; None if all outputs are finite."""
    return next((i for i, value in enumerate(signals.measured["variance"]) if value is None), None)


def describe_null_model_difference(signals: SignalsRecord) -> str:
    """Describe how far the measured shares are from the predictions of the random-walk model.

    The random-walk model is the null model.  The shares are those of clipped values and of
    surviving identity paths.  The text is empty if no unit has both a measured and a predicted
    value of one of them.
    """
    if not signals.predicted:
        return "The random-walk model does not apply to this design."
    clip_differences = compute_null_model_differences(signals, "clip_fraction")
    survival_differences = compute_null_model_differences(signals, "survival")
    if not clip_differences or not survival_differences:
        return ""
    if has_no_clipping(signals):
        return (
            "The random-walk model agrees exactly: no value is clipped, "
            "and every identity path survives."
        )
    heading = (
        "Training has moved the net away from the random-walk model of its initialisation"
        if signals.trained
        else "Compared with the random-walk model"
    )
    return (
        f"{heading}: the share of clipped values differs by {format_rms_points(clip_differences)}, "
        f"that of surviving paths by {format_rms_points(survival_differences)}."
    )


def compute_null_model_differences(signals: SignalsRecord, signal: str) -> list[float]:
    """|measured - predicted| for each unit of which both values are known."""
    pairs = zip(signals.measured[signal], signals.predicted.get(signal, ()), strict=False)
    return [
        abs(measured - predicted)
        for measured, predicted in pairs
        if measured is not None and predicted is not None
    ]


def has_no_clipping(signals: SignalsRecord) -> bool:
    """Whether neither the measured nor the predicted values show any clipping."""
    return not any(signals.measured["clip_fraction"]) and not any(
        signals.predicted["clip_fraction"]
    )


def format_rms_points(differences: list[float]) -> str:
    rms = sqrt(sum(difference * difference for difference in differences) / len(differences))
    return f"{100 * rms:.2f} points RMS (at most {100 * max(differences):.2f})"


def describe_branch_sizes(signals: SignalsRecord) -> str:
    """A sentence with the ratio |F| / |x| of the first and the last unit; empty for a plain net."""
    ratios = [
        (name, ratio)
        for name, ratio in zip(signals.names, signals.measured["residual_ratio"], strict=True)
        if ratio is not None
    ]
    if not ratios or signals.plain:
        return ""
    (first_name, first_ratio), (last_name, last_ratio) = ratios[0], ratios[-1]
    if first_ratio == last_ratio == 0:
        return "Every branch outputs 0: the units are identities."
    if first_ratio == last_ratio:
        return f"Every branch is {format_three_digits(last_ratio)} times as large as its shortcut."
    return (
        f"A branch is {format_three_digits(first_ratio)} times as large as its shortcut "
        f"in {first_name}, and {format_three_digits(last_ratio)} times in {last_name}."
    )


def describe_gradient_growth(signals: SignalsRecord) -> str:
    """Describe how the gradient norm of the unit outputs changes from last to first unit."""
    norms = [value for value in signals.measured["activation_gradient_norm"] if value is not None]
    if not norms:
        return "The gradient is not finite."
    if len(norms) < 2:
        return "Only one unit has a finite gradient."
    first_norm, last_norm = norms[0], norms[-1]
    if last_norm == 0:
        return "The gradient at the last unit's output is 0."
    weights_text = describe_weight_gradients(signals)
    return (
        f"The gradient {name_gradient_growth(first_norm / last_norm)}: "
        f"its norm goes from {format_three_digits(last_norm)} at the last unit's output "
        f"to {format_three_digits(first_norm)} at the first's{weights_text}."
    )


def name_gradient_growth(growth: float) -> str:
    """A verb phrase for the change of the gradient norm, e.g. `vanishes` or `explodes`.

    `growth` is the norm at the first unit divided by the norm at the last.
    """
    if growth >= EXTREME_GRADIENT_FACTOR:
        return "explodes"
    if growth <= 1 / EXTREME_GRADIENT_FACTOR:
        return "vanishes"
    if 1 / EVEN_GRADIENT_FACTOR <= growth <= EVEN_GRADIENT_FACTOR:
        return f"stays within a factor of {EVEN_GRADIENT_FACTOR:g}"
    return "grows on its way back" if growth > 1 else "shrinks on its way back"


def describe_weight_gradients(signals: SignalsRecord) -> str:
    """Text on how much the gradient norms of the units' weights differ; empty if a norm is 0."""
    norms = [value for value in signals.measured["gradient_norm"] if value is not None]
    if not norms or min(norms) <= 0:
        return ""
    ratio = format_three_digits(max(norms) / min(norms))
    return f"; the gradient norms of the units' weights differ by a factor of up to {ratio}"


def describe_activation_statistics(signals: SignalsRecord) -> str:
    """Text on the mean and variance of the first and the last unit's output.

    The text is empty if an output overflows.
    """
    if find_overflowing_unit(signals) is not None:
        return ""
    means, variances = signals.measured["mean"], signals.measured["variance"]
    return (
        f"{describe_signal_growth(variances[0], variances[-1])}"
        "From the first unit's output to the last's, the mean goes "
        f"from {format_three_digits(means[0])} to {format_three_digits(means[-1])}, the variance "
        f"from {format_three_digits(variances[0])} to {format_three_digits(variances[-1])}."
    )


def describe_signal_growth(first_variance: float | None, last_variance: float | None) -> str:
    """A sentence saying that the signal explodes or vanishes, or "" if it does neither.

    The signal explodes if its variance grows by a factor of at least 1,000, and vanishes if its
    variance falls by such a factor.
    """
    if not first_variance or last_variance is None:
        return ""
    growth = last_variance / first_variance
    if growth >= EXTREME_GRADIENT_FACTOR:
        return "The signal explodes. "
    return "The signal vanishes. " if growth <= 1 / EXTREME_GRADIENT_FACTOR else ""


def describe_gradient_cosines(signals: SignalsRecord) -> str:
    """Describe the cosine between the gradients at the first and the last unit of each stage."""
    cosines_by_stage = {
        stage: signals.measured["gradient_cosine"][signals.unit_stages.index(stage)]
        for stage in dict.fromkeys(signals.unit_stages)
        if signals.unit_stages.count(stage) > 1
    }
    cosine_texts = [
        f"{cosine:.2f} in stage {stage}"
        for stage, cosine in cosines_by_stage.items()
        if cosine is not None
    ]
    if not cosine_texts:
        return ""
    return (
        "The gradients at a stage's first and last unit have a cosine of "
        f"{join_with_and(cosine_texts)}."
    )


def get_stage_end_values(signals: SignalsRecord, values: SignalValues) -> dict[int, float | None]:
    """The value at the last unit of each stage, as {stage: value}."""
    return {
        stage: values[signals.last_unit_index(stage)]
        for stage in dict.fromkeys(signals.unit_stages)
    }


def format_signal_percent(share: float | None) -> str:
    """A share in [0, 1] in percent to three significant digits: `0.0398 %`; None gives a dash."""
    return NO_VALUE if share is None else f"{format_three_digits(100 * share)} %"
