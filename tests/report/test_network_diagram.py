"""The diagram of a network shows its plan: units, layers, shortcuts, joins and shapes."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from residua.cli.main import main
from residua.config.papers import network
from residua.config.plan import plan
from residua.report.block_drawing import render_block
from residua.report.diagram_svg import DIAGRAM_WIDTH
from residua.report.network_diagram import fold_identical_units, render_network_diagram

SVG_NAMESPACE = "{http://www.w3.org/2000/svg}"
NETWORK_NAMES = [
    "cifar-plain20",
    "cifar-resnet20",
    "cifar-resnet110",
    "cifar-resnet1202",
    "cifar-resnet20,shortcut=B",
    "cifar-resnet20,shortcut=C",
    "resnet50",
    "resnet152",
    "cifar-preresnet164",
    "cifar-highway20",
    "lecture-resnet12",
    "cifar-resnet56,join=shortcut-gate",
    "cifar-resnet110,join=drop-path",
    "cifar-resnet20,join=constant",
    "fc-resnet10",
    "cifar-resnet20,head=vlad",
]


def draw_network(name):
    return ET.fromstring(render_network_diagram(plan(network(name))))


def find_by_class(element, name):
    """The elements below `element` that have the class `name`."""
    return [child for child in element.iter() if name in child.get("class", "").split()]


def list_texts(element):
    return [text.text for text in element.iter(f"{SVG_NAMESPACE}text")]


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_every_unit_is_drawn_or_counted_and_every_stage_labelled(name):
    picture, planned = draw_network(name), plan(network(name))
    hidden = sum(int(fold.get("data-hidden")) for fold in find_by_class(picture, "fold"))
    assert len(find_by_class(picture, "unit")) + hidden == len(planned.units)
    stages = [
        [unit for unit in planned.units if unit.stage == stage]
        for stage in range(1, len(planned.network.stages) + 1)
    ]
    shown = [shown.unit for stage in stages for shown in fold_identical_units(stage)]
    assert [unit.get("data-unit") for unit in find_by_class(picture, "unit")] == [
        unit.name for unit in shown
    ]
    assert {stage[0].name for stage in stages} | {stage[-1].name for stage in stages} <= {
        unit.name for unit in shown
    }
    stage_labels = [list_texts(stage) for stage in find_by_class(picture, "stage")]
    assert stage_labels == [
        [f"stage {s}", f"{len(units)} unit{'s' if len(units) > 1 else ''}"]
        for s, units in enumerate(stages, 1)
    ]


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_a_drawn_unit_has_the_layers_the_shortcut_and_the_join_of_its_plan(name):
    picture, planned = draw_network(name), {unit.name: unit for unit in plan(network(name)).units}
    for element in find_by_class(picture, "unit"):
        unit = planned[element.get("data-unit")]
        column = unit.lead + unit.branch + unit.after
        for op in ("weight", "bn", "relu", "maxpool"):
            boxes = [
                box for box in find_by_class(element, op) if "on-shortcut" not in box.get("class")
            ]
            assert len(boxes) == sum(layer.op == op for layer in column), op
        assert len(find_by_class(element, "on-shortcut")) == sum(
            layer.op != "pad" for layer in unit.shortcut or ()
        )
        assert len(find_by_class(element, "on-pad")) == sum(
            layer.op == "pad" for layer in unit.shortcut or ()
        )
        assert len(find_by_class(element, "gate-box")) == bool(unit.gate)
        arcs = find_by_class(element, "shortcut")
        assert len(arcs) == len(find_by_class(element, "join")) == (unit.shortcut is not None)
        if unit.shortcut is not None:
            ops = [layer.op for layer in unit.shortcut]
            kind = "project" if "weight" in ops else "pad" if "pad" in ops else "identity"
            assert arcs[0].get("class") == f"shortcut {kind}"
            assert (
                find_by_class(element, "join")[0].get("class")
                == f"join {type(unit.join).__name__.lower()}"
            )


def test_boxes_show_kernels_channels_and_strides():
    units = find_by_class(draw_network("resnet50,stride=3x3"), "unit")
    [first] = [unit for unit in units if unit.get("data-unit") == "stage2.unit1"]
    assert [list_texts(box) for box in find_by_class(first, "weight")] == [
        ["1×1, 128"],
        ["3×3, 128, /2"],
        ["1×1, 512"],
        ["1×1, 512, /2"],
    ]
    [padded] = [
        unit
        for unit in find_by_class(draw_network("cifar-resnet20"), "unit")
        if unit.get("data-unit") == "stage3.unit1"
    ]
    assert list_texts(find_by_class(padded, "on-pad")[0]) == ["+32 zeros, /2"]


def test_shapes_are_shown_where_they_change():
    assert [shape.text for shape in find_by_class(draw_network("cifar-resnet110"), "shape")] == [
        "input 3 × 32 × 32",
        "16 × 32 × 32",
        "32 × 16 × 16",
        "64 × 8 × 8",
    ]
    assert [shape.text for shape in find_by_class(draw_network("resnet50"), "shape")] == [
        "input 3 × 224 × 224",
        "64 × 56 × 56",
        "256 × 56 × 56",
        "512 × 28 × 28",
        "1024 × 14 × 14",
        "2048 × 7 × 7",
    ]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cifar-highway20", {"(1 − g) x + g F"}),
        ("cifar-resnet20,join=shortcut-gate", {"(1 − g) x + F"}),
        ("cifar-resnet20,join=constant", {"0.5 x + 0.5 F"}),
        ("cifar-resnet20,join=dropout", {"dropout 0.5 of x"}),
        ("cifar-resnet20", set()),
    ],
)
def test_a_join_other_than_a_plain_sum_is_labelled(name, label):
    assert {text.text for text in find_by_class(draw_network(name), "join-words")} == label


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_a_diagram_fits_a_phone_and_stays_inside_its_frame(name):
    picture = draw_network(name)
    assert DIAGRAM_WIDTH <= 358
    _, _, width, height = map(float, picture.get("viewBox").split())
    assert width == DIAGRAM_WIDTH
    for box in picture.iter(f"{SVG_NAMESPACE}rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert x >= 0
        assert x + float(box.get("width")) <= width
        assert y + float(box.get("height")) <= height


def test_names_are_escaped_in_diagrams():
    assert "<b>" not in render_network_diagram(plan(replace(network("cifar-resnet8"), name='<b>"')))


def test_every_colour_follows_light_and_dark_mode():
    style, rest = re.split(r"</style>", render_network_diagram(plan(network("cifar-resnet20"))))
    assert re.findall(r"#[0-9a-f]{6}", rest) == []
    assert set(re.findall(r"var\(--d-(\w+)\)", style)) <= set(re.findall(r"--d-(\w+):", style))


def test_the_show_command_writes_the_diagram_to_a_file(tmp_path, capsys):
    assert main(["show", "cifar-preresnet20", "--svg", str(tmp_path / "net.svg")]) == 0
    assert "stage1.unit1" in capsys.readouterr().out
    picture = ET.parse(tmp_path / "net.svg").getroot()
    assert picture.get("aria-label") == "cifar-preresnet20: 20 layers, 269,722 parameters"
    assert len(find_by_class(picture, "unit")) > 3


@pytest.mark.parametrize(
    ("name", "bottom"),
    [
        ("cifar-plain20", "H(x)"),
        ("cifar-resnet20", "F(x) + x"),
        ("cifar-preresnet164", "F(x) + x"),
        ("cifar-resnet20,join=constant", "0.5 x + 0.5 F"),
    ],
)
def test_the_drawing_of_a_block_has_a_box_for_each_layer_inside_its_frame(name, bottom):
    unit = plan(network(name)).units[-1]
    drawing = ET.fromstring(render_block(unit, "test"))
    drawn = [group.get("class") for group in drawing.iter("g") if group.find("rect") is not None]
    assert drawn == [layer.op for layer in unit.lead + unit.branch + unit.after]
    width, height = map(float, drawing.get("viewBox").split()[2:])
    for box in drawing.iter("rect"):
        x, y, box_width, box_height = (float(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + box_width <= width
        assert 0 <= y <= y + box_height <= height
    texts = [text.text for text in drawing.iter("text")]
    assert texts[0] == "x"
    assert bottom in texts
    assert ("identity" in texts) == (unit.shortcut is not None)
