"""The diagram of a network, drawn from its plan: one column from the input to the class scores.

Every element has a CSS class that names it (`unit`, `weight`, `bn`, `shortcut identity`,
`join add`, `fold`, `shape`, ...), and each unit has its name as `data-unit`.  Of consecutive equal
units only the last is drawn, below a mark with the number of the others.  This way a network of
1,202 layers fits on a page.
"""

from dataclasses import dataclass, replace
from itertools import groupby

from residua.config.joins import Add
from residua.config.layers import Layers
from residua.config.plan import Plan, PlannedUnit
from residua.report.diagram_svg import (
    BOX_HALF_WIDTH,
    COLUMN_X,
    LAYER_GAP,
    DiagramColumn,
    draw_layer_boxes,
    draw_shape_label,
    get_box_height,
    render_diagram_svg,
    render_svg_box,
    render_svg_text,
)
from residua.report.format import format_counted_noun
from residua.report.plan_notation import format_layer_label

SHORTCUT_X, GATE_X = (
    276,
    77,
)  # centers of the shortcuts, at the right, and of the gates, at the left
SHORTCUT_BOX_WIDTH, GATE_BOX_SIZE = 88, (62, 30)
JOIN_RADIUS = 8
FOLD_HEIGHT = 26


@dataclass(frozen=True, slots=True)
class DrawnUnit:
    """A unit in the diagram, and the number of equal units before it that are not drawn."""

    unit: PlannedUnit
    hidden_count: int = 0


def render_network_diagram(plan: Plan) -> str:
    """Render the diagram of a network as a self-contained SVG element."""
    column = DiagramColumn()
    draw_shape_label(column, plan.stem[0].input_shape, "input")
    draw_layer_boxes(column, plan.stem)
    column.draw_line_down(10)
    draw_shape_label(column, plan.stem[-1].output_shape)
    for stage, units in groupby(plan.units, key=lambda unit: unit.stage):
        draw_stage_units(column, stage, list(units))
    column.draw_line_down(6)
    draw_layer_boxes(column, plan.head)
    column.draw_line_down(8)
    column.y += 12
    column.add_elements(render_svg_text(COLUMN_X, column.y, "class scores", "small"))
    title = f"{plan.network.name}: {plan.depth:,} layers, {plan.parameters:,} parameters"
    return render_diagram_svg(column, title)


def fold_identical_units(units: list[PlannedUnit]) -> list[DrawnUnit]:
    """Choose the units of a stage to draw: the first, and the last of each run of equal units.

    A run of two units is drawn in full, because a mark for a single unit would save no space.
    """
    drawn_units: list[DrawnUnit] = []
    for _, group in groupby(units, key=strip_index_and_join):
        equal_units = list(group)
        if not drawn_units or len(equal_units) == 2:
            drawn_units.append(DrawnUnit(equal_units[0]))
            equal_units = equal_units[1:]
        if equal_units:
            drawn_units.append(DrawnUnit(equal_units[-1], len(equal_units) - 1))
    return drawn_units


def strip_index_and_join(unit: PlannedUnit) -> PlannedUnit:
    """Copy a unit with index 0 and join `Add()`, so that otherwise equal units compare equal.

    The joins of a network's units differ at most in the drop-path probability, which grows with
    depth.
    """
    return replace(unit, index=0, join=Add())


def draw_stage_units(column: DiagramColumn, stage: int, units: list[PlannedUnit]) -> None:
    """Draw the units of a stage, and a bracket with the stage's name and number of units."""
    top_y = column.y
    for drawn_unit in fold_identical_units(units):
        if drawn_unit.hidden_count:
            draw_fold_mark(column, drawn_unit.hidden_count)
        draw_planned_unit(column, drawn_unit.unit)
    bracket_path = f"M7 {top_y + 4:g}h-4v{column.y - top_y - 8:g}h4"
    column.add_elements(
        f'<g class="stage"><path class="stage-line" d="{bracket_path}"/>',
        render_svg_text(9, top_y + 16, f"stage {stage}", "left"),
        render_svg_text(9, top_y + 29, format_counted_noun(len(units), "unit"), "small left"),
        "</g>",
    )


def draw_fold_mark(column: DiagramColumn, hidden_count: int) -> None:
    """Draw a dotted line in place of `hidden_count` units that equal the next unit."""
    line_path = f"M{COLUMN_X} {column.y:g}v{FOLD_HEIGHT}"
    label = f"{hidden_count:,} more like the next"
    column.add_elements(
        f'<g class="fold" data-hidden="{hidden_count}">'
        f'<path class="line" stroke-dasharray="1 4" d="{line_path}"/>',
        render_svg_text(COLUMN_X + 10, column.y + 17, label, "small left"),
        "</g>",
    )
    column.y += FOLD_HEIGHT


def draw_planned_unit(column: DiagramColumn, unit: PlannedUnit) -> None:
    parameters = sum(layer.parameters for layer in unit.layers)
    column.add_elements(
        f'<g class="unit" data-unit="{unit.name}">'
        f"<title>{unit.name}: {parameters:,} parameters</title>"
    )
    draw_layer_boxes(column, unit.lead)
    column.draw_line_down(9)
    fork_y = column.y - 4
    draw_layer_boxes(column, unit.branch)
    if unit.shortcut is not None:
        column.draw_line_down(5)
        draw_shortcut_and_join(column, unit, unit.shortcut, fork_y)
    draw_layer_boxes(column, unit.after)
    column.draw_line_down(9)
    column.add_elements("</g>")
    if unit.input_shape != unit.output_shape:
        draw_shape_label(column, unit.output_shape)


def draw_shortcut_and_join(
    column: DiagramColumn, unit: PlannedUnit, shortcut: Layers, fork_y: float
) -> None:
    """Draw a unit's join, and the shortcut and gate that lead to it from the fork at `fork_y`."""
    join_y = column.y + JOIN_RADIUS
    middle_y = (fork_y + join_y) / 2
    shortcut_path = make_bypass_path(fork_y, join_y, SHORTCUT_X)
    column.add_elements(
        f'<path class="shortcut {classify_shortcut(shortcut)}" d="{shortcut_path}"/>'
    )
    draw_shortcut_layers(column, shortcut, middle_y)
    if unit.gate:
        gate_label = format_layer_label(unit.gate[0])
        column.add_elements(
            f'<path class="gate-way" d="{make_bypass_path(fork_y, join_y, GATE_X)}"/>',
            *render_svg_box("gate-box", (GATE_X, middle_y), GATE_BOX_SIZE, "gate", gate_label),
        )
    column.add_elements(
        f'<g class="join {type(unit.join).__name__.lower()}">'
        f'<circle cx="{COLUMN_X}" cy="{join_y:g}" r="{JOIN_RADIUS}"/>',
        render_svg_text(COLUMN_X, join_y + 4, unit.join.symbol),
        "</g>",
    )
    if unit.join.formula:
        formula_x = COLUMN_X + BOX_HALF_WIDTH + 5
        column.add_elements(
            render_svg_text(formula_x, join_y + 14, unit.join.formula, "join-words small left")
        )
    column.y += 2 * JOIN_RADIUS


def classify_shortcut(shortcut: Layers) -> str:
    """Return the CSS class of a shortcut: `project`, `pad` or `identity`."""
    ops = {layer.op for layer in shortcut}
    return "project" if "weight" in ops else "pad" if "pad" in ops else "identity"


def make_bypass_path(start_y: float, end_y: float, axis_x: float) -> str:
    """Make the SVG path from the column at `start_y`, down along `axis_x`, and back at `end_y`."""
    side = 1 if axis_x > COLUMN_X else -1
    bend = min(14.0, (end_y - start_y) / 2)  # radius of the two corners
    near_axis_x, join_edge_x = axis_x - side * bend, COLUMN_X + side * JOIN_RADIUS
    return (
        f"M{COLUMN_X} {start_y:g}H{near_axis_x:g}"
        f"Q{axis_x:g} {start_y:g} {axis_x:g} {start_y + bend:g}"
        f"V{end_y - bend:g}"
        f"Q{axis_x:g} {end_y:g} {near_axis_x:g} {end_y:g}H{join_edge_x:g}"
    )


def draw_shortcut_layers(column: DiagramColumn, layers: Layers, center_y: float) -> None:
    """Draw the layers of a shortcut as boxes on the shortcut's line, centered at `center_y`."""
    heights = [get_box_height(layer) for layer in layers]
    top_y = center_y - (sum(heights) + LAYER_GAP * max(len(layers) - 1, 0)) / 2
    for layer, height in zip(layers, heights, strict=True):
        css_classes = "on-pad" if layer.op == "pad" else f"on-shortcut {layer.op}"
        center = (SHORTCUT_X, top_y + height / 2)
        column.add_elements(
            *render_svg_box(
                css_classes, center, (SHORTCUT_BOX_WIDTH, height), format_layer_label(layer)
            )
        )
        top_y += height + LAYER_GAP
