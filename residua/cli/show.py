"""Show a network's stages, units and size beside the paper's figures, without building it."""

from itertools import groupby
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import (
    CommandParser,
    add_json_option,
    add_network_options,
    parse_network_options,
    print_json,
)
from residua.config.dataset import get_dataset
from residua.config.memory import activation_bytes
from residua.config.network import Drop, Gate, Join, Scale
from residua.config.papers import PAPER_RESULTS, network
from residua.config.plan import ActivationShape, Layers, Plan, PlannedUnit, plan
from residua.files import write_text
from residua.report.network_diagram import render_network_diagram


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", help="a network's name, e.g. cifar-resnet110")
    add_network_options(parser)
    parser.add_argument("--data", help="shape it for this data set, e.g. digits")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw it, to this file")
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    planned = plan(
        parse_network_options(
            arguments, arguments.model, get_dataset(arguments.data) if arguments.data else None
        )
    )
    facts = {
        "name": planned.network.name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "multiply_adds": planned.multiply_adds,
        "activation_bytes": activation_bytes(planned),
    }
    if arguments.svg:
        write_text(arguments.svg, render_network_diagram(planned))
    if arguments.json:
        print_json(facts)
    else:
        print(
            "\n".join(
                [
                    *format_plan_table(planned),
                    "",
                    *format_sizes_beside_paper(planned, arguments.model),
                ]
            )
        )


def format_plan_table(planned: Plan) -> list[str]:
    """A line for the stem, for each run of alike units, and for the head."""
    lines = [
        planned.network.name,
        f"{'input':24} {format_plan_shape(planned.stem[0].input_shape)}",
        format_plan_row("stem", planned.stem),
    ]
    for _, similar_units in groupby(
        planned.units,
        key=lambda unit: (unit.stage, unit.lead, unit.branch, unit.shortcut, unit.after),
    ):
        first, *other_units = similar_units
        name = f"stage{first.stage}.unit{first.index}" + (
            f"-{other_units[-1].index}" if other_units else ""
        )
        lines.append(
            format_plan_row(
                name, first.branch, format_planned_unit(first, planned.network.unit.join)
            )
        )
    lines.append(format_plan_row("head", planned.head))
    return lines


def format_plan_row(name: str, layers: Layers, text: str = "") -> str:
    parameters = sum(layer.parameters for layer in layers)
    return (
        f"{name:24} {format_plan_shape(layers[-1].output_shape):14} {text or format_layer_sequence(layers)}"
        + ("" if text else f"  {parameters:,}")
    )


def format_planned_unit(unit: PlannedUnit, join: Join) -> str:
    if unit.shortcut is None:
        shortcut = "no shortcut"
    else:
        shortcut = format_layer_sequence(unit.shortcut) if unit.shortcut else "identity"
    parts = [
        f"{format_layer_sequence(unit.lead)} |" if unit.lead else "",
        format_layer_sequence(unit.branch),
        f"{format_join_formula(join, format_layer_sequence(unit.gate))} {shortcut}",
        f"-> {format_layer_sequence(unit.after)}" if unit.after else "",
    ]
    return (
        " ".join(part for part in parts if part)
        + f"  {sum(layer.parameters for layer in unit.layers):,}"
    )


def format_join_formula(join: Join, gate: str) -> str:
    """What stands between the branch and the shortcut; g is the gate."""
    match join:
        case Scale(a, b):
            return f"x {b:g} + {a:g} x"
        case Gate(scales="both"):
            return f"x g({gate}) + (1 - g) x"
        case Gate():
            return f"+ (1 - g({gate})) x"
        case Drop(shortcut, branch):
            drop_text = f"(dropped up to {branch:g}) " if branch else ""
            return f"{drop_text}+ dropout {shortcut:g} of" if shortcut else f"{drop_text}+"
    return "+"


def format_layer_sequence(layers: Layers) -> str:
    """`3x3 bn relu 3x3/2`: kernels with their stride, and the other operations by name."""
    return " ".join(
        (f"{layer.kernel}x{layer.kernel}" if layer.output_shape.size else "full")
        + (f"/{layer.stride}" if layer.stride > 1 else "")
        if layer.op == "weight"
        else layer.op
        for layer in layers
    )


def format_plan_shape(shape: ActivationShape) -> str:
    return "x".join(map(str, (shape.channels, *shape.size)))


def format_sizes_beside_paper(planned: Plan, name: str) -> list[str]:
    paper = PAPER_RESULTS.get(name)
    is_changed = planned.network != network(name)
    paper_values = (
        {}
        if paper is None or is_changed
        else {
            "parameters": paper.parameters,
            "multiply-adds": paper.multiply_adds,
            "error": paper.error,
        }
    )
    rows = {
        "layers": f"{planned.depth:,}",
        "parameters": f"{planned.parameters:,}",
        "multiply-adds": f"{planned.multiply_adds:,}",
        "activations": f"{activation_bytes(planned) / 2**20:,.2f} MiB an image, kept for the backward pass in fp32",
    }
    lines = [
        f"{key:24} {value}" + (f"   (paper: {paper_values[key]})" if paper_values.get(key) else "")
        for key, value in rows.items()
    ]
    return lines + (
        [f"{'error in the paper':24} {paper_values['error']}"] if paper_values.get("error") else []
    )
