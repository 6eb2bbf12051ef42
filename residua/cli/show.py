"""Show a network's stages, units and size next to the paper's numbers, without building it."""

from itertools import groupby
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.models import has_paper_stride
from residua.cli.options import add_json_option, add_network_options, parse_network_options
from residua.cli.parser import CommandParser
from residua.config.dataset import get_dataset
from residua.config.joins import Join
from residua.config.layers import Layers
from residua.config.memory import activation_bytes
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import network
from residua.config.plan import Plan, PlannedUnit, plan
from residua.config.weight_registry import find_weights
from residua.console.output import print_note, print_result
from residua.errors import UsageError
from residua.files import write_text
from residua.report.network_diagram import render_network_diagram
from residua.report.plan_notation import format_layer_sequence, format_plan_shape


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", help="a network's name, e.g. cifar-resnet110")
    add_network_options(parser)
    parser.add_argument(
        "--data", help="shape the network for this data set, e.g. digits (default: the paper's)"
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="also write a diagram of the network to this file"
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    data = get_dataset(arguments.data) if arguments.data else None
    name = find_shown_network(arguments.model)
    network_plan = plan(parse_network_options(arguments, name, data))
    if arguments.svg:
        write_text(arguments.svg, render_network_diagram(network_plan))
    facts = {
        "name": network_plan.network.name,
        "depth": network_plan.depth,
        "parameters": network_plan.parameters,
        "multiply_adds": network_plan.multiply_adds,
        "activation_bytes": activation_bytes(network_plan),
    }
    lines = [
        *format_plan_table(network_plan),
        "",
        *format_totals_beside_paper(network_plan, name),
    ]
    print_result(facts, "\n".join(lines), arguments.json)


def find_shown_network(name: str) -> str:
    """Return the network's name that is shown: `name`, or the network of weights of this name."""
    weights = find_weights(name)
    if weights is None or weights.network == name:
        return name
    try:
        network(name)
    except UsageError:
        print_note(f"{name} names weights of {weights.network}")
        return weights.network
    print_note(f"the published weights that {name} stands for are of {weights.network}")
    return name


def format_plan_table(network_plan: Plan) -> list[str]:
    """Format one line for the stem, one for each group of identical units, and one for the head.

    Two lines above them show the network's name and its input shape.
    """
    lines = [
        network_plan.network.name,
        f"{'input':24} {format_plan_shape(network_plan.stem[0].input_shape)}",
        format_plan_row("stem", network_plan.stem),
    ]
    for _, equal_units in groupby(
        network_plan.units,
        key=lambda unit: (unit.stage, unit.lead, unit.branch, unit.shortcut, unit.after),
    ):
        first, *others = equal_units
        last_index = f"-{others[-1].index}" if others else ""
        name = f"stage{first.stage}.unit{first.index}{last_index}"
        description = format_planned_unit(first, network_plan.network.unit.join)
        lines.append(format_plan_row(name, first.branch, description))
    lines.append(format_plan_row("head", network_plan.head))
    return lines


def format_plan_row(name: str, layers: Layers, description: str = "") -> str:
    """Format one row of the table: name, output shape and a description.

    Without `description`, the row ends with the layers and their number of parameters.
    """
    if not description:
        parameters = sum(layer.parameters for layer in layers)
        description = f"{format_layer_sequence(layers)}  {parameters:,}"
    return f"{name:24} {format_plan_shape(layers[-1].output_shape):14} {description}"


def format_planned_unit(unit: PlannedUnit, join: Join) -> str:
    """Format the layers of a unit, and its number of parameters.

    For example, `3x3 bn relu 3x3 bn + identity -> relu  4,672`.
    """
    branch = format_layer_sequence(unit.branch)
    shortcut = format_layer_sequence(unit.shortcut or ()) or "identity"
    joined = f"{branch} + {shortcut}"
    if unit.shortcut is None:
        joined = f"{branch}, no shortcut"
    elif join.formula:
        gate = f", g = {format_layer_sequence(unit.gate)}" if unit.gate else ""
        joined = f"F = {branch}, x = {shortcut}{gate}: {join.formula}"
    lead = f"{format_layer_sequence(unit.lead)} | " if unit.lead else ""
    after = f" -> {format_layer_sequence(unit.after)}" if unit.after else ""
    parameters = sum(layer.parameters for layer in unit.layers)
    return f"{lead}{joined}{after}  {parameters:,}"


def format_totals_beside_paper(network_plan: Plan, name: str) -> list[str]:
    """Format the depth, parameters, multiply-adds and activation memory, one per line.

    The paper's numbers are added if `name` is a network of the paper and no option has changed it.
    """
    paper = PAPER_RESULTS.get(name) if network_plan.network == network(name) else None
    mebibytes = activation_bytes(network_plan) / 2**20
    rows = [
        ("layers", f"{network_plan.depth:,}", ""),
        ("parameters", f"{network_plan.parameters:,}", paper.parameters if paper else ""),
        ("multiply-adds", f"{network_plan.multiply_adds:,}", paper.multiply_adds if paper else ""),
        ("activations", f"{mebibytes:,.2f} MiB per image, kept for the backward pass in fp32", ""),
    ]
    lines = [
        f"{label:24} {value}" + (f"   (paper: {published})" if published else "")
        for label, value, published in rows
    ]
    if network_plan.network.name.startswith("cifar-wrn"):
        lines[0] += "   (the name counts the three projections, but not the last layer)"
    if stem_layers := len(network_plan.network.stem.inner_widths):
        lines[0] += f"   (the name counts the {stem_layers + 1} of the stem as one)"
    if has_paper_stride(network_plan):
        lines[2] += "   (stride at the 1x1, as in the papers; v1.5: stride=3x3)"
    if paper and paper.error:
        lines.append(f"{'error in the paper':24} {paper.error}")
    return lines
