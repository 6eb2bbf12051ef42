"""The findings on the signals of a network; every sentence follows from the record's numbers."""

from math import sqrt

from residua.report.format import format_three_digits, join_with_and
from residua.report.signals_record import SignalsRecord
from residua.report.signals_verdict import (
    compute_gradient_growth,
    describe_gradient_growth_in_words,
    find_overflowing_unit,
    format_signal_percent,
    get_stage_end_values,
    list_gradient_norms,
)


def describe_signals_findings(signals: SignalsRecord) -> dict[str, str]:
    """Describe the findings of the report that follow its lead, by the figure that each belongs to.

    `survival` belongs to no figure: the page shows its numbers as a table.
    """
    return {
        "survival": describe_unclipped_path_share(signals),
        "path": describe_null_model_difference(signals),
        "branch": describe_branch_sizes(signals),
        "gradients": describe_gradient_growth(signals),
        "activations": describe_activation_statistics(signals),
        "agreement": describe_stage_gradient_cosines(signals),
    }


def describe_unclipped_path_share(signals: SignalsRecord) -> str:
    """Describe the measured and predicted share of identity paths that no unit of a stage clips.

    The text is empty for a plain net, which has no identity paths, and if activations overflow.
    """
    if signals.plain or find_overflowing_unit(signals) is not None:
        return ""
    if not any(signals.measured["clip_fraction"]):
        return (
            "No unit clips the identity path: a stage's input reaches the stage's end unchanged, "
            "and so does the gradient on the way back."
        )
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


def describe_null_model_difference(signals: SignalsRecord) -> str:
    """Describe how far the measured shares are from the predictions of the random-walk model.

    The random-walk model is the null model.  The shares are those of clipped values and of
    surviving identity paths.  The text is empty if no unit has both a measured and a predicted
    value of either share.
    """
    if not signals.predicted:
        return "The random-walk model does not apply to this design."
    clip_differences = compute_null_model_deviations(signals, "clip_fraction")
    survival_differences = compute_null_model_deviations(signals, "survival")
    if not clip_differences or not survival_differences:
        return ""
    if shows_no_relu_clipping(signals):
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


def compute_null_model_deviations(signals: SignalsRecord, signal: str) -> list[float]:
    """Compute |measured - predicted| for each unit of which both values are known."""
    pairs = zip(signals.measured[signal], signals.predicted.get(signal, ()), strict=False)
    return [
        abs(measured - predicted)
        for measured, predicted in pairs
        if measured is not None and predicted is not None
    ]


def shows_no_relu_clipping(signals: SignalsRecord) -> bool:
    """Return whether neither the measured nor the predicted values show any clipping."""
    return not any(signals.measured["clip_fraction"]) and not any(
        signals.predicted["clip_fraction"]
    )


def format_rms_points(differences: list[float]) -> str:
    rms = sqrt(sum(difference * difference for difference in differences) / len(differences))
    return f"{100 * rms:.2f} points RMS (at most {100 * max(differences):.2f})"


def describe_branch_sizes(signals: SignalsRecord) -> str:
    """Give |F| / |x| of the first and the last unit in a sentence; "" for a plain net."""
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
        "|F| / |x|, the size of a branch relative to its shortcut, goes from "
        f"{format_three_digits(first_ratio)} in {first_name} to {format_three_digits(last_ratio)} "
        f"in {last_name}."
    )


def describe_gradient_growth(signals: SignalsRecord) -> str:
    """Describe how the gradient norm of the unit outputs changes from last to first unit."""
    norms = list_gradient_norms(signals)
    if not norms:
        return "The gradient is not finite."
    if len(norms) < 2:
        return "Only one unit has a finite gradient."
    growth = compute_gradient_growth(signals)
    if growth is None:
        return "The gradient at the last unit's output is 0."
    weights_text = describe_weight_gradients(signals)
    return f"The gradient {describe_gradient_growth_in_words(growth, norms)}{weights_text}."


def describe_weight_gradients(signals: SignalsRecord) -> str:
    """Describe how much the gradient norms of the units' weights differ; empty if a norm is 0."""
    norms = [value for value in signals.measured["gradient_norm"] if value is not None]
    if not norms or min(norms) <= 0:
        return ""
    ratio = format_three_digits(max(norms) / min(norms))
    return f"; the gradient norms of the units' weights differ by a factor of up to {ratio}"


def describe_activation_statistics(signals: SignalsRecord) -> str:
    """Describe the mean and variance of the first and the last unit's output.

    The text is empty if an output overflows.
    """
    if find_overflowing_unit(signals) is not None:
        return ""
    means, variances = signals.measured["mean"], signals.measured["variance"]
    return (
        "From the first unit's output to the last's, the mean goes "
        f"from {format_three_digits(means[0])} to {format_three_digits(means[-1])}, the variance "
        f"from {format_three_digits(variances[0])} to {format_three_digits(variances[-1])}."
    )


def describe_stage_gradient_cosines(signals: SignalsRecord) -> str:
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
