"""The picture of a network, drawn from its plan, as SVG text: one column from the input down to the class scores.

Everything that is drawn carries a class that names it (`unit`, `weight`, `bn`, `shortcut identity`, `join add`, `fold`,
`shape`, ...), and each unit its name as `data-unit`.  Colours follow the reader's light or dark.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from residua.config.network import Add, Drop, Gate, Join, Scale
from residua.config.plan import ActivationShape, Layer, Layers, Plan, PlannedUnit

DIAGRAM_WIDTH = 350  # pixels, so that it fits a phone
COLUMN_X, BOX_HALF_WIDTH = 168, 56  # of the column of layers: its axis, and half the width of a box
SHORTCUT_X, GATE_X = 276, 77  # axes of the shortcuts, at the right, and of the gates, at the left
BOX_HEIGHTS = {"weight": 21, "vlad": 21}  # of a box; of others LOW
DEFAULT_BOX_HEIGHT, LAYER_GAP = 14, 4

DIAGRAM_COLORS = {
    "paper": ("#fdfdfb", "#141518"),
    "ink": ("#1b1c1e", "#e9e8e4"),
    "quiet": ("#5d5f64", "#a3a5aa"),
    "soft": ("#eeeeea", "#26282d"),
    "weight": ("#0f62a8", "#62b5f5"),
    "filled": ("#e1edf7", "#172c3f"),
    "shortcut": ("#c2410c", "#ff8f52"),
    "project": ("#fbe9df", "#3d2316"),
}
"""Each colour, on light and on dark."""

DIAGRAM_CSS = """
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
class DrawnUnit:
    """A unit that is drawn, behind so many that are the same and are not."""

    unit: PlannedUnit
    hidden_count: int = 0


class SvgPen:
    """The column drawn so far: its elements, and how far down it reaches."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.y = 10.0

    def add_elements(self, *elements: str) -> None:
        self.elements += elements

    def draw_line_down(self, distance: float) -> None:
        """A piece of the line that the activations run along."""
        self.add_elements(f'<path class="line" d="M{COLUMN_X} {self.y:g}v{distance:g}"/>')
        self.y += distance


def render_network_diagram(plan: Plan) -> str:
    """The picture of `plan`, an SVG element of its own: for a file, or to be put into a page."""
    pen = SvgPen()
    draw_shape_label(pen, plan.stem[0].input_shape, "input")
    draw_layer_boxes(pen, plan.stem)
    pen.draw_line_down(10)
    draw_shape_label(pen, plan.stem[-1].output_shape)
    for stage, units in groupby(plan.units, key=lambda unit: unit.stage):
        draw_stage_units(pen, stage, list(units))
    pen.draw_line_down(6)
    draw_layer_boxes(pen, plan.head)
    pen.draw_line_down(8)
    pen.y += 12
    pen.add_elements(render_svg_text(COLUMN_X, pen.y, "class scores", "small"))
    height = pen.y + 8
    title = f"{plan.network.name}: {plan.depth:,} layers, {plan.parameters:,} parameters"
    css_variables = [
        " ".join(f"--d-{name}: {pair[i]};" for name, pair in DIAGRAM_COLORS.items()) for i in (0, 1)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" aria-label="{escape(title)}" '
            f'viewBox="0 0 {DIAGRAM_WIDTH} {height:g}" width="{DIAGRAM_WIDTH}" height="{height:g}" style="max-width: {DIAGRAM_WIDTH}px; height: auto">',
            f"<style>{DIAGRAM_CSS.format(light=css_variables[0], dark=css_variables[1])}</style>",
            f'<rect class="ground" width="{DIAGRAM_WIDTH}" height="{height:g}"/>',
            *pen.elements,
            "</svg>\n",
        ]
    )


def fold_identical_units(units: list[PlannedUnit]) -> list[DrawnUnit]:
    """Of a stage its first unit, and of those alike, one behind the other, the last; two alike are both shown."""
    drawn_units: list[DrawnUnit] = []
    for _, group in groupby(units, key=strip_unit_position):
        identical_units = list(group)
        if not drawn_units or len(identical_units) == 2:
            drawn_units.append(DrawnUnit(identical_units[0]))
            identical_units = identical_units[1:]
        if identical_units:
            drawn_units.append(DrawnUnit(identical_units[-1], len(identical_units) - 1))
    return drawn_units


def strip_unit_position(unit: PlannedUnit) -> PlannedUnit:
    """What units that look alike have in common: all but their place, and the drop-path that grows with it."""
    join = (
        Drop(unit.join.shortcut, 0.5)
        if isinstance(unit.join, Drop) and unit.join.branch
        else unit.join
    )
    return replace(unit, index=0, join=join)


def draw_stage_units(pen: SvgPen, stage: int, units: list[PlannedUnit]) -> None:
    top_y = pen.y
    for drawn_unit in fold_identical_units(units):
        if drawn_unit.hidden_count:
            draw_fold_mark(pen, drawn_unit.hidden_count)
        draw_planned_unit(pen, drawn_unit.unit)
    unit_count = f"{len(units)} unit{'s' if len(units) > 1 else ''}"
    pen.add_elements(
        f'<g class="stage"><path class="stage-line" d="M7 {top_y + 4:g}h-4v{pen.y - top_y - 8:g}h4"/>',
        render_svg_text(9, top_y + 16, f"stage {stage}", "left"),
        render_svg_text(9, top_y + 29, unit_count, "small left"),
        "</g>",
    )


def draw_fold_mark(pen: SvgPen, hidden_count: int) -> None:
    top_y = pen.y
    label = f"{hidden_count:,} more like the next" if hidden_count > 1 else "one more like the next"
    pen.add_elements(
        f'<g class="fold" data-hidden="{hidden_count}"><path class="line" stroke-dasharray="1 4" d="M{COLUMN_X} {top_y:g}v26"/>',
        render_svg_text(COLUMN_X + 10, top_y + 17, label, "small left"),
        "</g>",
    )
    pen.y += 26


def draw_planned_unit(pen: SvgPen, unit: PlannedUnit) -> None:
    parameters = sum(layer.parameters for layer in unit.layers)
    pen.add_elements(
        f'<g class="unit" data-unit="{unit.name}"><title>{unit.name}: {parameters:,} parameters</title>'
    )
    draw_layer_boxes(pen, unit.lead)
    pen.draw_line_down(9)
    fork_y = pen.y - 4
    draw_layer_boxes(pen, unit.branch)
    if unit.shortcut is not None:
        pen.draw_line_down(5)
        draw_unit_join(pen, unit, fork_y)
    draw_layer_boxes(pen, unit.after)
    pen.draw_line_down(9)
    pen.add_elements("</g>")
    if unit.input_shape != unit.output_shape:
        draw_shape_label(pen, unit.output_shape)


def draw_unit_join(pen: SvgPen, unit: PlannedUnit, fork_y: float) -> None:
    """The join, and the shortcut and the gate that lead to it from the fork."""
    join_y, shortcut = pen.y + 8, unit.shortcut or ()
    pen.add_elements(
        f'<path class="shortcut {classify_shortcut(shortcut)}" d="{make_bypass_path(fork_y, join_y, SHORTCUT_X, 1)}"/>'
    )
    draw_shortcut_layers(pen, shortcut, (fork_y + join_y) / 2)
    if unit.gate:
        pen.add_elements(
            f'<path class="gate-way" d="{make_bypass_path(fork_y, join_y, GATE_X, -1)}"/>'
        )
        pen.add_elements(
            *render_svg_box(
                "gate-box",
                GATE_X,
                (fork_y + join_y) / 2 - 15,
                31,
                30,
                ("gate", format_layer_label(unit.gate[0])),
            )
        )
    symbol, formula = join_symbol_and_formula(unit.join)
    pen.add_elements(
        f'<g class="join {type(unit.join).__name__.lower()}"><circle cx="{COLUMN_X}" cy="{join_y:g}" r="8"/>',
        render_svg_text(COLUMN_X, join_y + 4, symbol),
        "</g>",
    )
    if formula:
        pen.add_elements(
            render_svg_text(
                COLUMN_X + BOX_HALF_WIDTH + 5, join_y + 14, formula, "join-words small left"
            )
        )
    pen.y += 16


def classify_shortcut(shortcut: Layers) -> str:
    """What a shortcut is, in a word."""
    ops = {layer.op for layer in shortcut}
    return "project" if "weight" in ops else "pad" if "pad" in ops else "identity"


def make_bypass_path(start_y: float, end_y: float, axis_x: float, side: int) -> str:
    """A way out of the column at `start`, along an axis at that side, and back to the join at `end`."""
    bend_radius = min(14.0, (end_y - start_y) / 2)
    return (
        f"M{COLUMN_X} {start_y:g}H{axis_x - side * bend_radius:g}Q{axis_x:g} {start_y:g} {axis_x:g} {start_y + bend_radius:g}"
        f"V{end_y - bend_radius:g}Q{axis_x:g} {end_y:g} {axis_x - side * bend_radius:g} {end_y:g}H{COLUMN_X + side * 8:g}"
    )


def draw_shortcut_layers(pen: SvgPen, layers: Layers, center_y: float) -> None:
    """What a shortcut does, in boxes on its arc."""
    heights = [get_box_height(layer) for layer in layers]
    top_y = center_y - (sum(heights) + LAYER_GAP * max(len(layers) - 1, 0)) / 2
    for layer, box_height in zip(layers, heights, strict=True):
        pen.add_elements(
            *render_svg_box(
                "on-pad" if layer.op == "pad" else f"on-shortcut {layer.op}",
                SHORTCUT_X,
                top_y,
                44,
                box_height,
                (format_layer_label(layer),),
            )
        )
        top_y += box_height + LAYER_GAP


def join_symbol_and_formula(join: Join) -> tuple[str, str]:
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
            formula_parts = [f"dropout {shortcut:g} of x"] * (shortcut > 0) + [
                f"drop-path {branch:.2g} of F"
            ] * (branch > 0)
            return "+", ", ".join(formula_parts)


def draw_layer_boxes(pen: SvgPen, layers: Layers) -> None:
    """Layers in boxes, one under the other."""
    for layer in layers:
        pen.draw_line_down(LAYER_GAP)
        layer_height = get_box_height(layer)
        pen.add_elements(
            *render_svg_box(
                layer.op,
                COLUMN_X,
                pen.y,
                BOX_HALF_WIDTH,
                layer_height,
                (format_layer_label(layer),),
            )
        )
        pen.y += layer_height


def get_box_height(layer: Layer) -> int:
    return BOX_HEIGHTS.get(layer.op, DEFAULT_BOX_HEIGHT)


def render_svg_box(
    css_classes: str,
    center_x: float,
    top_y: float,
    half_width: float,
    height: float,
    text_lines: tuple[str, ...],
) -> Iterator[str]:
    text_class = "" if height >= 21 and len(text_lines) == 1 else "small"
    yield f'<g class="{css_classes}"><rect x="{center_x - half_width:g}" y="{top_y:g}" width="{2 * half_width:g}" height="{height:g}" rx="3"/>'
    for i, line in enumerate(text_lines):
        yield render_svg_text(
            center_x, top_y + height * (2 * i + 1) / (2 * len(text_lines)) + 3.6, line, text_class
        )
    yield "</g>"


def format_layer_label(layer: Layer) -> str:
    """`3×3, 16` and its stride: a layer as its box tells it."""
    stride = f", /{layer.stride}" if layer.stride > 1 else ""
    match layer.op:
        case "weight":
            return (
                f"{layer.kernel}×{layer.kernel}" if layer.output_shape.size else "full"
            ) + f", {layer.output_shape.channels}{stride}"
        case "maxpool":
            return f"max-pool {layer.kernel}×{layer.kernel}{stride}"
        case "pad":
            return f"+{layer.output_shape.channels - layer.input_shape.channels} zeros{stride}"
        case "mean":
            return "mean of positions"
        case "vlad":
            return f"VLAD, {layer.vlad_centres} words"
        case _:
            return layer.op


def draw_shape_label(pen: SvgPen, shape: ActivationShape, name: str = "") -> None:
    """Channels and size of what flows here."""
    pen.draw_line_down(20)
    size = " × ".join(f"{number}" for number in (shape.channels, *shape.size))
    pen.add_elements(render_svg_text(COLUMN_X + 9, pen.y - 5, f"{name} {size}".strip(), "shape"))


def render_svg_text(x: float, y: float, content: str, css_classes: str = "") -> str:
    class_attribute = f' class="{css_classes}"' if css_classes else ""
    return f'<text x="{x:g}" y="{y:g}"{class_attribute}>{escape(content)}</text>'
