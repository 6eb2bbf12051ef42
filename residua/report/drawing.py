"""The picture of a network, drawn from its plan, as SVG text: one column from the input down to the class scores.

Everything that is drawn carries a class that names it (`unit`, `weight`, `bn`, `shortcut identity`, `join add`, `fold`,
`shape`, ...), and each unit its name as `data-unit`.  Colours follow the reader's light or dark.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from residua.spec.network import Add, Drop, Gate, Join, Scale
from residua.spec.plan import Layer, Layers, Plan, PlannedUnit, Shape

WIDTH = 350  # pixels, so that it fits a phone
MIDDLE, HALF = 168, 56  # of the column of layers: its axis, and half the width of a box
ARC, GATE = 276, 77  # axes of the shortcuts, at the right, and of the gates, at the left
HEIGHTS = {"weight": 21, "vlad": 21}  # of a box; of others LOW
LOW, GAP = 14, 4

INKS = {
    "paper": ("#fdfdfb", "#141518"), "ink": ("#1b1c1e", "#e9e8e4"), "quiet": ("#5d5f64", "#a3a5aa"), "soft": ("#eeeeea", "#26282d"),
    "weight": ("#0f62a8", "#62b5f5"), "filled": ("#e1edf7", "#172c3f"), "shortcut": ("#c2410c", "#ff8f52"),
    "project": ("#fbe9df", "#3d2316"),
}  # fmt: skip
"""Each colour, on light and on dark."""

STYLE = """
.drawing {{ {light} font: 11px system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }}
@media screen and (prefers-color-scheme: dark) {{ .drawing {{ {dark} }} }}
.drawing text {{ fill: var(--d-ink); text-anchor: middle; }}
.drawing .small {{ font-size: 9.5px; fill: var(--d-quiet); }}
.drawing .left {{ text-anchor: start; }}
.drawing .shape {{ text-anchor: start; font-weight: 600; font-size: 10.5px; }}
.drawing .line {{ fill: none; stroke: var(--d-ink); stroke-width: 1.3; }}
.drawing .shortcut, .drawing .gate-way {{ fill: none; stroke: var(--d-shortcut); stroke-width: 1.6; }}
.drawing .pad {{ stroke-dasharray: 4 3; }}
.drawing rect {{ fill: var(--d-soft); stroke: none; }}
.drawing .ground {{ fill: var(--d-paper); }}
.drawing .weight rect, .drawing .vlad rect {{ fill: var(--d-filled); stroke: var(--d-weight); }}
.drawing .on-shortcut rect, .drawing .gate-box rect {{ fill: var(--d-project); stroke: var(--d-shortcut); }}
.drawing .on-pad rect {{ fill: var(--d-paper); stroke: var(--d-shortcut); stroke-dasharray: 4 3; }}
.drawing circle {{ fill: var(--d-paper); stroke: var(--d-shortcut); stroke-width: 1.6; }}
.drawing .stage-line {{ stroke: var(--d-quiet); stroke-width: 1; fill: none; }}
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A unit that is drawn, behind so many that are the same and are not."""

    unit: PlannedUnit
    hidden: int = 0


class Pen:
    """The column drawn so far: its elements, and how far down it reaches."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.y = 10.0

    def put(self, *elements: str) -> None:
        self.elements += elements

    def down(self, distance: float) -> None:
        """A piece of the line that the activations run along."""
        self.put(f'<path class="line" d="M{MIDDLE} {self.y:g}v{distance:g}"/>')
        self.y += distance


def drawing(plan: Plan) -> str:
    """The picture of `plan`, an SVG element of its own: for a file, or to be put into a page."""
    pen = Pen()
    shape(pen, plan.stem[0].at, "input")
    stack(pen, plan.stem)
    pen.down(10)
    shape(pen, plan.stem[-1].out)
    for stage, units in groupby(plan.units, key=lambda unit: unit.stage):
        draw_stage(pen, stage, list(units))
    pen.down(6)
    stack(pen, plan.head)
    pen.down(8)
    pen.y += 12
    pen.put(text(MIDDLE, pen.y, "class scores", "small"))
    height = pen.y + 8
    title = f"{plan.network.name}: {plan.depth:,} layers, {plan.parameters:,} parameters"
    variables = [" ".join(f"--d-{name}: {pair[i]};" for name, pair in INKS.items()) for i in (0, 1)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" aria-label="{escape(title)}" '
            f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" style="max-width: {WIDTH}px; height: auto">',
            f"<style>{STYLE.format(light=variables[0], dark=variables[1])}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height:g}"/>',
            *pen.elements,
            "</svg>\n",
        ]
    )


def folded(units: list[PlannedUnit]) -> list[Shown]:
    """Of a stage its first unit, and of those alike, one behind the other, the last; two alike are both shown."""
    shown: list[Shown] = []
    for _, group in groupby(units, key=kind):
        alike = list(group)
        if not shown or len(alike) == 2:
            shown.append(Shown(alike[0]))
            alike = alike[1:]
        if alike:
            shown.append(Shown(alike[-1], len(alike) - 1))
    return shown


def kind(unit: PlannedUnit) -> PlannedUnit:
    """What units that look alike have in common: all but their place, and the drop-path that grows with it."""
    join = Drop(unit.join.shortcut, 0.5) if isinstance(unit.join, Drop) and unit.join.branch else unit.join
    return replace(unit, index=0, join=join)


def draw_stage(pen: Pen, stage: int, units: list[PlannedUnit]) -> None:
    top = pen.y
    for shown in folded(units):
        if shown.hidden:
            fold(pen, shown.hidden)
        draw_unit(pen, shown.unit)
    count = f"{len(units)} unit{'s' if len(units) > 1 else ''}"
    pen.put(
        f'<g class="stage"><path class="stage-line" d="M7 {top + 4:g}h-4v{pen.y - top - 8:g}h4"/>',
        text(9, top + 16, f"stage {stage}", "left"), text(9, top + 29, count, "small left"), "</g>",
    )  # fmt: skip


def fold(pen: Pen, hidden: int) -> None:
    top = pen.y
    words = f"{hidden:,} more like the next" if hidden > 1 else "one more like the next"
    pen.put(
        f'<g class="fold" data-hidden="{hidden}"><path class="line" stroke-dasharray="1 4" d="M{MIDDLE} {top:g}v26"/>',
        text(MIDDLE + 10, top + 17, words, "small left"), "</g>",
    )  # fmt: skip
    pen.y += 26


def draw_unit(pen: Pen, unit: PlannedUnit) -> None:
    parameters = sum(layer.parameters for layer in unit.layers)
    pen.put(f'<g class="unit" data-unit="{unit.name}"><title>{unit.name}: {parameters:,} parameters</title>')
    stack(pen, unit.lead)
    pen.down(9)
    fork = pen.y - 4
    stack(pen, unit.branch)
    if unit.shortcut is not None:
        pen.down(5)
        sum_up(pen, unit, fork)
    stack(pen, unit.after)
    pen.down(9)
    pen.put("</g>")
    if unit.at != unit.out:
        shape(pen, unit.out)


def sum_up(pen: Pen, unit: PlannedUnit, fork: float) -> None:
    """The join, and the shortcut and the gate that lead to it from the fork."""
    middle, shortcut = pen.y + 8, unit.shortcut or ()
    pen.put(f'<path class="shortcut {way(shortcut)}" d="{bow(fork, middle, ARC, 1)}"/>')
    on_the_way(pen, shortcut, (fork + middle) / 2)
    if unit.gate:
        pen.put(f'<path class="gate-way" d="{bow(fork, middle, GATE, -1)}"/>')
        pen.put(*box("gate-box", GATE, (fork + middle) / 2 - 15, 31, 30, ("gate", words(unit.gate[0]))))
    symbol, told = joined(unit.join)
    pen.put(
        f'<g class="join {type(unit.join).__name__.lower()}"><circle cx="{MIDDLE}" cy="{middle:g}" r="8"/>',
        text(MIDDLE, middle + 4, symbol), "</g>",
    )  # fmt: skip
    if told:
        pen.put(text(MIDDLE + HALF + 5, middle + 14, told, "join-words small left"))
    pen.y += 16


def way(shortcut: Layers) -> str:
    """What a shortcut is, in a word."""
    ops = {layer.op for layer in shortcut}
    return "project" if "weight" in ops else "pad" if "pad" in ops else "identity"


def bow(start: float, end: float, axis: float, side: int) -> str:
    """A way out of the column at `start`, along an axis at that side, and back to the join at `end`."""
    bend = min(14.0, (end - start) / 2)
    return (
        f"M{MIDDLE} {start:g}H{axis - side * bend:g}Q{axis:g} {start:g} {axis:g} {start + bend:g}"
        f"V{end - bend:g}Q{axis:g} {end:g} {axis - side * bend:g} {end:g}H{MIDDLE + side * 8:g}"
    )


def on_the_way(pen: Pen, layers: Layers, middle: float) -> None:
    """What a shortcut does, in boxes on its arc."""
    heights = [height(layer) for layer in layers]
    top = middle - (sum(heights) + GAP * max(len(layers) - 1, 0)) / 2
    for layer, high in zip(layers, heights, strict=True):
        pen.put(*box("on-pad" if layer.op == "pad" else f"on-shortcut {layer.op}", ARC, top, 44, high, (words(layer),)))
        top += high + GAP


def joined(join: Join) -> tuple[str, str]:
    """The sign of a join, and what stands beside it; F is the branch."""
    match join:
        case Add():
            return "+", ""
        case Scale(a, b):
            return "+", f"{a:g} x + {b:g} F"
        case Gate(scales="both"):
            return "g", "(1 − g) x + g F"
        case Gate():
            return "g", "(1 − g) x + F"
        case Drop(shortcut, branch):
            told = [f"dropout {shortcut:g} of x"] * (shortcut > 0) + [f"drop-path {branch:.2g} of F"] * (branch > 0)
            return "+", ", ".join(told)


def stack(pen: Pen, layers: Layers) -> None:
    """Layers in boxes, one under the other."""
    for layer in layers:
        pen.down(GAP)
        high = height(layer)
        pen.put(*box(layer.op, MIDDLE, pen.y, HALF, high, (words(layer),)))
        pen.y += high


def height(layer: Layer) -> int:
    return HEIGHTS.get(layer.op, LOW)


def box(name: str, middle: float, top: float, half: float, high: float, lines: tuple[str, ...]) -> Iterator[str]:
    size = "" if high >= 21 and len(lines) == 1 else "small"
    yield f'<g class="{name}"><rect x="{middle - half:g}" y="{top:g}" width="{2 * half:g}" height="{high:g}" rx="3"/>'
    for i, line in enumerate(lines):
        yield text(middle, top + high * (2 * i + 1) / (2 * len(lines)) + 3.6, line, size)
    yield "</g>"


def words(layer: Layer) -> str:
    """`3×3, 16` and its stride: a layer as its box tells it."""
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    match layer.op:
        case "weight":
            return (f"{layer.kernel}×{layer.kernel}" if layer.out.size else "full") + f", {layer.out.channels}{stride}"
        case "maxpool":
            return f"max-pool {layer.kernel}×{layer.kernel}{stride}"
        case "pad":
            return f"+{layer.out.channels - layer.at.channels} zeros{stride}"
        case "mean":
            return "mean of positions"
        case "vlad":
            return f"VLAD, {layer.words} words"
        case _:
            return layer.op


def shape(pen: Pen, at: Shape, name: str = "") -> None:
    """Channels and size of what flows here."""
    pen.down(20)
    size = " × ".join(f"{number}" for number in (at.channels, *at.size))
    pen.put(text(MIDDLE + 9, pen.y - 5, f"{name} {size}".strip(), "shape"))


def text(x: float, y: float, content: str, names: str = "") -> str:
    named = f' class="{names}"' if names else ""
    return f'<text x="{x:g}" y="{y:g}"{named}>{escape(content)}</text>'
