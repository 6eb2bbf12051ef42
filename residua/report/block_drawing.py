"""Draw the block of each net of a study as SVG, labelled as in the papers' figures.

The labels x, F(x) and "weight layer" are those of He et al. 2015, figure 2; the boxes for BN and
ReLU are those of He et al. 2016, figure 4.  The layers come from a run's record.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from residua.config.layers import Layer, Layers
from residua.config.plan import PlannedUnit
from residua.report.diagram_svg import (
    make_diagram_style,
    render_svg_box,
    render_svg_text,
)
from residua.report.format import capitalize_first, join_with_and
from residua.report.recorded_run import FinishedRun
from residua.report.significance import format_arm_name

WIDTH = 122  # pixels, so that three blocks fit a phone
COLUMN_X, BOX_WIDTH, SHORTCUT_X, JOIN_RADIUS = 46, 82, 103, 8
CAPTION_SHIFT = 100 * (WIDTH / 2 - COLUMN_X) / WIDTH
"""How far left of the drawing's middle its boxes stand, in percent of the drawing's width."""

WEIGHT_HEIGHT, OTHER_HEIGHT, GAP = 27, 18, 8
OP_LABELS = {
    "bn": "BN",
    "relu": "ReLU",
    "silu": "SiLU",
    "maxpool": "max-pool",
    "avgpool": "average pool",
}
FILE_GAP, FILE_SCALE = 56, 1.4  # of a separate file: pixels between blocks, and size


class BlockDrawing(NamedTuple):
    """The drawing of a block, and the names of the nets that are made of such blocks."""

    svg: str
    nets: str


def draw_study_blocks(runs: Sequence[FinishedRun]) -> list[BlockDrawing]:
    """Draw each kind of block in the nets of a study, in the order of its arms.

    Arms whose blocks have the same layers share a drawing.  If the blocks of an arm differ between
    depths, the drawings name the depths.  Nets that this version cannot read are left out.
    """
    units_by_arm: dict[str, dict[int, PlannedUnit]] = {}
    for run in runs:
        if run.last_unit is not None:
            units_by_arm.setdefault(run.arm, {})[run.depth] = run.last_unit
    unit_by_structure: dict[tuple[object, ...], PlannedUnit] = {}
    names_by_structure: dict[tuple[object, ...], list[str]] = {}
    for arm, units in units_by_arm.items():
        depths_by_structure: dict[tuple[object, ...], list[int]] = {}
        for depth, unit in sorted(prefer_identity_shortcuts(units).items()):
            structure = describe_structure(unit)
            unit_by_structure.setdefault(structure, unit)
            depths_by_structure.setdefault(structure, []).append(depth)
        for structure, depths in depths_by_structure.items():
            name = name_drawn_nets(arm, depths if len(depths_by_structure) > 1 else ())
            names_by_structure.setdefault(structure, []).append(name)
    drawings = []
    for structure, names in names_by_structure.items():
        nets = join_with_and(names)
        drawing = render_block(unit_by_structure[structure], nets)
        drawings.append(BlockDrawing(drawing, capitalize_first(nets)))
    return drawings


def prefer_identity_shortcuts(units: Mapping[int, PlannedUnit]) -> dict[int, PlannedUnit]:
    """Leave out the units of an arm that only differ in their shortcut from one with an identity.

    `units` are by depth.  With one unit per stage, a net's last unit is one that halves the image,
    where the shortcut cannot be an identity and may start after the first BN and ReLU.
    """

    def describe_without_shortcut(unit: PlannedUnit) -> tuple[object, ...]:
        parts = (unit.lead + unit.branch, unit.after)
        layers = tuple(tuple((layer.op, layer.kernel) for layer in part) for part in parts)
        return (*layers, unit.shortcut is None, unit.join.symbol, unit.join.formula)

    with_identity = {
        describe_without_shortcut(unit) for unit in units.values() if unit.shortcut == ()
    }
    return {
        depth: unit
        for depth, unit in units.items()
        if unit.shortcut == () or describe_without_shortcut(unit) not in with_identity
    }


def name_drawn_nets(arm: str, depths: Sequence[int]) -> str:
    """Name the nets of an arm, and the depths if given: `residual (20 and 56 layers)`."""
    depth_texts = [f"{depth:,}" for depth in depths]
    name = format_arm_name(arm)
    return f"{name} ({join_with_and(depth_texts)} layers)" if depth_texts else name


def render_blocks_file(drawings: Sequence[BlockDrawing]) -> str:
    """Render drawings side by side, each above its name, as an SVG file for a document."""
    heights = [float(re.findall(r'viewBox="0 0 \S+ ([\d.]+)"', svg)[0]) for svg, _ in drawings]
    width, height = FILE_GAP + len(drawings) * (WIDTH + FILE_GAP), max(heights) + 34
    parts = [
        f'<svg x="{FILE_GAP + i * (WIDTH + FILE_GAP)}" y="6" height="{own_height:g}"'
        + drawing.svg.removeprefix("<svg").replace(f' height="{own_height:g}"', "", 1)
        + render_svg_text(FILE_GAP + i * (WIDTH + FILE_GAP) + COLUMN_X, height - 10, drawing.nets)
        for i, (drawing, own_height) in enumerate(zip(drawings, heights, strict=True))
    ]
    title = " and ".join(drawing.nets for drawing in drawings)
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
            f'aria-label="{escape(title)}" viewBox="0 0 {width} {height:g}" '
            f'width="{FILE_SCALE * width:g}" height="{FILE_SCALE * height:g}">',
            f'<rect class="ground" width="{width}" height="{height:g}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def describe_structure(unit: PlannedUnit) -> tuple[object, ...]:
    """Return what two units must share to have the same drawing."""
    parts = (unit.lead, unit.branch, unit.after, unit.shortcut or ())
    layers = tuple(
        tuple((layer.op, layer.kernel, layer.groups, layer.attention) for layer in part)
        for part in parts
    )
    return (*layers, unit.shortcut is None, unit.join.symbol, unit.join.formula)


def render_block(unit: PlannedUnit, nets: str) -> str:
    """Render the SVG of a unit's layers, from its input x at the top to its output."""
    elements: list[str] = [render_svg_text(COLUMN_X, 12, "x", "math")]
    y = draw_boxes(elements, 18, unit.lead)
    fork_y = y + 7
    elements.append(make_line(y, fork_y + 3))
    y = draw_boxes(elements, fork_y + 3, unit.branch)
    if unit.shortcut is not None:
        join_y = y + 40
        elements += [
            make_line(y, join_y - JOIN_RADIUS),
            render_svg_text(COLUMN_X - 20, y + 19, "F(x)", "math"),
            render_svg_text(
                COLUMN_X + 6, join_y + 21, unit.join.formula or "F(x) + x", "math left"
            ),
        ]
        draw_shortcut(elements, unit, fork_y, join_y)
        y = join_y + JOIN_RADIUS + 12
        elements.append(make_line(join_y + JOIN_RADIUS, y))
    y = draw_boxes(elements, y, unit.after)
    elements.append(f'<path class="line" d="M{COLUMN_X} {y:g}v13m-3.5 -5l3.5 5l3.5 -5"/>')
    if unit.shortcut is None:
        elements.append(render_svg_text(COLUMN_X, y + 26, "H(x)", "math"))
    return wrap_block_svg(elements, y + 30, f"Block of {nets} nets: {list_layers(unit)}")


def draw_boxes(elements: list[str], y: float, layers: Layers) -> float:
    """Add the boxes of layers below `y`, each with the line that leads to it; return their end."""
    is_bottleneck = len({layer.kernel for layer in layers if layer.op == "weight"}) > 1
    for layer in layers:
        height = WEIGHT_HEIGHT if layer.op == "weight" else OTHER_HEIGHT
        elements.append(make_line(y, y + GAP))
        y += GAP
        center = (COLUMN_X, y + height / 2)
        elements += render_svg_box(
            layer.op, center, (BOX_WIDTH, height), label_layer(layer, is_bottleneck)
        )
        y += height
    return y


def draw_shortcut(elements: list[str], unit: PlannedUnit, fork_y: float, join_y: float) -> None:
    """Add the shortcut from the fork to the join, the join, and what the shortcut computes."""
    bend = 10
    path = (
        f"M{COLUMN_X} {fork_y:g}H{SHORTCUT_X - bend}q{bend} 0 {bend} {bend}"
        f"V{join_y - bend:g}q0 {bend} {-bend} {bend}H{COLUMN_X + JOIN_RADIUS}"
    )
    middle_y = (fork_y + join_y) / 2
    label = ", ".join(label_layer(layer) for layer in unit.shortcut or ()) or "identity"
    elements += [
        f'<path class="shortcut" d="{path}"/>',
        f'<g transform="rotate(90 {SHORTCUT_X + 7} {middle_y:g})">',
        render_svg_text(SHORTCUT_X + 7, middle_y, label, "small"),
        f'</g><g class="join"><circle cx="{COLUMN_X}" cy="{join_y:g}" r="{JOIN_RADIUS}"/>',
        render_svg_text(COLUMN_X, join_y + 4, unit.join.symbol),
        "</g>",
    ]


def make_line(from_y: float, to_y: float) -> str:
    return f'<path class="line" d="M{COLUMN_X} {from_y:g}V{to_y:g}"/>'


def label_layer(layer: Layer, with_kernel: bool = True) -> str:
    """Return a layer's name in a block: `BN`, `weight layer`, or `weight 3×3` with its kernel."""
    if layer.attention is not None:
        return layer.attention.symbol
    if layer.op != "weight":
        return OP_LABELS.get(layer.op, layer.op)
    return f"weight {layer.kernel}×{layer.kernel}" if with_kernel else "weight layer"


def list_layers(unit: PlannedUnit) -> str:
    """List the layers of a unit as text for screen readers."""

    def join_labels(layers: Iterable[Layer]) -> str:
        return ", ".join(label_layer(layer) for layer in layers)

    parts = [join_labels(unit.lead + unit.branch)]
    if unit.shortcut is not None:
        parts.append(f"joined with {join_labels(unit.shortcut) or 'x'} by {unit.join.symbol}")
    if unit.after:
        parts.append(f"then {join_labels(unit.after)}")
    return ", ".join(parts)


def wrap_block_svg(elements: Sequence[str], height: float, title: str) -> str:
    return "\n".join(
        [
            f'<svg class="drawing" role="img" '
            f'aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height:g}" '
            f'width="{WIDTH}" height="{height:g}">',
            f"<style>{make_diagram_style()}</style>",
            *elements,
            "</svg>",
        ]
    )
