"""Draw network diagrams as SVG: colors, CSS, and the boxes and labels of a single column.

The SVG is written by hand rather than by a plotting library.  Tests and style sheets read its
classes and `data-unit` attributes, and CSS variables adapt it to light and dark mode.
"""

from collections.abc import Iterator
from html import escape

from residua.config.layers import ActivationShape, Layer, Layers
from residua.report.plan_notation import format_layer_label, format_plan_shape

DIAGRAM_WIDTH = 350  # pixels, so that it fits a phone
COLUMN_X, BOX_HALF_WIDTH = 168, 56  # center of the column of layers, and half the width of a box
BOX_HEIGHTS = {"weight": 21, "vlad": 21}  # pixels, by operation
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
"""Maps the name of each CSS variable to its color in light mode and its color in dark mode."""

DIAGRAM_CSS = """
.drawing {
  %LIGHT%
  font: 11px system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
@media screen and (prefers-color-scheme: dark) { .drawing { %DARK% } }
.drawing text { fill: var(--d-ink); text-anchor: middle; }
.drawing .small { font-size: 9.5px; fill: var(--d-quiet); }
.drawing .math { font-style: italic; font-family: Georgia, "Liberation Serif", serif; }
.drawing .left { text-anchor: start; }
.drawing .shape { text-anchor: start; font-weight: 600; font-size: 10.5px; }
.drawing .line { fill: none; stroke: var(--d-ink); stroke-width: 1.3; }
.drawing .shortcut, .drawing .gate-way {
  fill: none; stroke: var(--d-shortcut); stroke-width: 1.6;
}
.drawing .pad { stroke-dasharray: 4 3; }
.drawing rect { fill: var(--d-soft); stroke: none; }
.drawing .ground { fill: var(--d-paper); }
.drawing .weight rect, .drawing .vlad rect { fill: var(--d-filled); stroke: var(--d-weight); }
.drawing .on-shortcut rect, .drawing .gate-box rect {
  fill: var(--d-project); stroke: var(--d-shortcut);
}
.drawing .on-pad rect {
  fill: var(--d-paper); stroke: var(--d-shortcut); stroke-dasharray: 4 3;
}
.drawing circle { fill: var(--d-paper); stroke: var(--d-shortcut); stroke-width: 1.6; }
.drawing .stage-line { stroke: var(--d-quiet); stroke-width: 1; fill: none; }
"""


class DiagramColumn:
    """A diagram's column as drawn so far: its SVG elements, and `y`, its lower end in pixels."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.y = 10.0

    def add_elements(self, *elements: str) -> None:
        self.elements += elements

    def draw_line_down(self, distance: float) -> None:
        """Extend the column's vertical line downwards by `distance` pixels."""
        self.add_elements(f'<path class="line" d="M{COLUMN_X} {self.y:g}v{distance:g}"/>')
        self.y += distance


def render_diagram_svg(column: DiagramColumn, title: str) -> str:
    """Render the complete SVG of a diagram with its CSS; `title` is the text for screen readers."""
    width, height = DIAGRAM_WIDTH, column.y + 8
    opening_tag = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
        f'aria-label="{escape(title)}" viewBox="0 0 {width} {height:g}" '
        f'width="{width}" height="{height:g}" style="max-width: {width}px; height: auto">'
    )
    ground = f'<rect class="ground" width="{width}" height="{height:g}"/>'
    style = f"<style>{make_diagram_style()}</style>"
    return "\n".join([opening_tag, style, ground, *column.elements, "</svg>\n"])


def make_diagram_style() -> str:
    """Make the CSS of a diagram, with its colors in light and in dark mode."""
    light, dark = (
        " ".join(f"--d-{name}: {colors[i]};" for name, colors in DIAGRAM_COLORS.items())
        for i in (0, 1)
    )
    return DIAGRAM_CSS.replace("%LIGHT%", light).replace("%DARK%", dark)


def draw_layer_boxes(column: DiagramColumn, layers: Layers) -> None:
    """Draw the layers as boxes, one below the other."""
    for layer in layers:
        column.draw_line_down(LAYER_GAP)
        height = get_box_height(layer)
        center_y = column.y + height / 2
        column.add_elements(
            *render_svg_box(
                layer.op,
                (COLUMN_X, center_y),
                (2 * BOX_HALF_WIDTH, height),
                format_layer_label(layer),
            )
        )
        column.y += height


def get_box_height(layer: Layer) -> int:
    return BOX_HEIGHTS.get(layer.op, DEFAULT_BOX_HEIGHT)


def render_svg_box(
    css_classes: str,
    center: tuple[float, float],
    size: tuple[float, float],
    *text_lines: str,
) -> Iterator[str]:
    """Yield the SVG of a box with lines of text in it.

    `center` is (x, y) and `size` is (width, height), both in pixels.
    """
    (center_x, center_y), (width, height) = center, size
    left, top = center_x - width / 2, center_y - height / 2
    text_class = "" if height >= 21 and len(text_lines) == 1 else "small"
    yield (
        f'<g class="{css_classes}"><rect x="{left:g}" y="{top:g}" '
        f'width="{width:g}" height="{height:g}" rx="3"/>'
    )
    for i, line in enumerate(text_lines):
        line_center = top + height * (2 * i + 1) / (2 * len(text_lines))
        yield render_svg_text(center_x, line_center + 3.6, line, text_class)
    yield "</g>"


def draw_shape_label(column: DiagramColumn, shape: ActivationShape, name: str = "") -> None:
    """Write `name` and the activation's shape beside the vertical line: `input 3 × 32 × 32`."""
    column.draw_line_down(20)
    label = f"{name} {format_plan_shape(shape, ' × ')}".strip()
    column.add_elements(render_svg_text(COLUMN_X + 9, column.y - 5, label, "shape"))


def render_svg_text(x: float, y: float, content: str, css_classes: str = "") -> str:
    class_attribute = f' class="{css_classes}"' if css_classes else ""
    return f'<text x="{x:g}" y="{y:g}"{class_attribute}>{escape(content)}</text>'
