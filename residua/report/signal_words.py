"""What a network's signals say, in plain words: every sentence follows from the numbers."""

from math import sqrt

from residua.report.measured import Signals
from residua.report.verdict import listed

EVEN = 10.0  # gradients that differ by no more than this factor are called even; our choice
GONE = 1e3  # and vanishing or exploding from this factor on


def lead(signals: Signals) -> str:
    """The answer: what is left of the direct path; where there is none, or nothing finite, what becomes of the gradient."""
    if (broken := overflown(signals)) is not None:
        return f"The signal explodes: in fp32 it is no finite number any more from {signals.names[broken]} on."
    if signals.plain:
        return f"A plain net has no direct path. {gradients(signals)}"
    cut = [value for value in signals.measured["clip_fraction"] if value]
    if not cut:
        return "Nothing cuts the direct path: what enters a stage arrives at its end, and so does the gradient on its way back."
    ends = at_ends(signals, "survival")
    left = listed([f"{percent(value)} {'survive ' * (i == 0)}stage {stage}" for i, (stage, value) in enumerate(ends.items())])
    text = f"Of the direct paths {left}; the ReLU after the addition cuts the others"
    if not signals.foreseen:
        return f"{text}."
    foreseen = [signals.foreseen["survival"][signals.last(stage)] for stage in ends]
    return f"{text}. The null model foresees {listed([percent(value) for value in foreseen])}."


def findings(signals: Signals) -> list[str]:
    """The other sentences, one a line."""
    lines = [
        comparison(signals),
        branches(signals),
        "" if signals.plain else gradients(signals),
        activations(signals),
        cosines(signals),
    ]
    return [line for line in lines if line]


def overflown(signals: Signals) -> int | None:
    """The first unit whose output is not finite."""
    return next((i for i, value in enumerate(signals.measured["variance"]) if value is None), None)


def comparison(signals: Signals) -> str:
    """How far the shares of cut sums and of paths left are from the null model's."""
    apart = {key: distances(signals, key) for key in ("clip_fraction", "survival")}
    if not all(apart.values()):
        return "The null model says nothing about this design." if not signals.foreseen else ""
    if not any(value for key in apart for line in (signals.measured, signals.foreseen) for value in line[key] if value != 1.0):
        return "The null model agrees exactly: no sum is cut, and every path is left."
    cut, left = [
        f"{100 * sqrt(sum(d * d for d in gaps) / len(gaps)):.2f} points (root mean square; at most {100 * max(gaps):.2f})"
        for gaps in apart.values()
    ]
    head = "Training has moved the net away from the null model of its start" if signals.trained else "Beside the null model"
    return f"{head}: the share of cut sums differs by {cut}, that of surviving paths by {left}."


def distances(signals: Signals, key: str) -> list[float]:
    pairs = zip(signals.measured[key], signals.foreseen.get(key, ()), strict=False)
    return [abs(a - b) for a, b in pairs if a is not None and b is not None]


def branches(signals: Signals) -> str:
    known = [
        (name, value) for name, value in zip(signals.names, signals.measured["residual_ratio"], strict=True) if value is not None
    ]
    if not known or signals.plain:
        return ""
    (first, before), (last, after) = known[0], known[-1]
    if before == after:
        return (
            f"Every branch answers {number(after)} times its shortcut."
            if after
            else "Every branch answers 0: the units are identities."
        )
    return f"A branch is {number(before)} times its shortcut in {first}, and {number(after)} times in {last}."


def gradients(signals: Signals) -> str:
    """Whether the gradient of activations vanishes or explodes on its way from the last unit to the first."""
    known = [value for value in signals.measured["activation_gradient_norm"] if value is not None]
    weights = [value for value in signals.measured["gradient_norm"] if value is not None]
    if not known:
        return "The gradient is no finite number."
    if len(known) < 2 or not known[-1]:
        return "No gradient comes back."
    growth = known[0] / known[-1]
    way = f"from the last unit's output to the first's the gradient's norm goes from {number(known[-1])} to {number(known[0])}"
    if growth >= GONE:
        said = f"The gradient explodes: {way}"
    elif growth <= 1 / GONE:
        said = f"The gradient vanishes: {way}"
    elif 1 / EVEN <= growth <= EVEN:
        said = f"The gradient stays within a factor of {EVEN:g}: {way}"
    else:
        said = f"The gradient {'grows' if growth > 1 else 'shrinks'} on its way back: {way}"
    if weights and min(weights) > 0:
        said += f"; norms of the units' weights differ by a factor of up to {number(max(weights) / min(weights))}"
    return f"{said}."


def activations(signals: Signals) -> str:
    mean, variance = signals.measured["mean"], signals.measured["variance"]
    if overflown(signals) is not None:
        return ""
    head = ""
    if mean[0] is not None and variance[0] and variance[-1] is not None and not 1 / GONE < variance[-1] / variance[0] < GONE:
        head = "The signal vanishes on its way. " if variance[-1] < variance[0] else "The signal explodes on its way. "
    return (
        f"{head}From the first unit's output to the last's the mean goes from {number(mean[0])} to {number(mean[-1])}, "
        f"the variance from {number(variance[0])} to {number(variance[-1])}."
    )


def cosines(signals: Signals) -> str:
    """How much of the direction of the gradient at a stage's end is there at its beginning."""
    found = {stage: signals.measured["gradient_cosine"][signals.stages.index(stage)] for stage in dict.fromkeys(signals.stages)}
    known = {
        stage: value for stage, value in found.items() if value is not None and signals.last(stage) > signals.stages.index(stage)
    }
    if not known:
        return ""
    told = listed([f"{value:.2f} in stage {stage}" for stage, value in known.items()])
    return f"The gradient at a stage's first unit and that at its last have a cosine of {told}."


def at_ends(signals: Signals, key: str) -> dict[int, float | None]:
    return {stage: signals.measured[key][signals.last(stage)] for stage in dict.fromkeys(signals.stages)}


def percent(value: float | None) -> str:
    return "–" if value is None else f"{number(100 * value)} %"


def number(value: float | None) -> str:
    """Three digits: `0.0398`, `12.3`, `1,250`, `3.2e-12`."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1000 and size < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"
