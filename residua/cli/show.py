"""Show a network's stages, units and size beside the paper's figures, without building it."""

from itertools import groupby
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_json, add_network, network_of, print_json
from residua.files import write_text
from residua.report.drawing import drawing
from residua.spec.dataset import dataset
from residua.spec.memory import activation_bytes
from residua.spec.network import Drop, Gate, Join, Scale
from residua.spec.papers import PUBLISHED, network
from residua.spec.plan import Layers, Plan, PlannedUnit, Shape, plan


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="a network's name, e.g. cifar-resnet110")
    add_network(parser)
    parser.add_argument("--data", help="shape it for this data set, e.g. digits")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw it, to this file")
    add_json(parser)


def run(arguments: Namespace) -> None:
    planned = plan(network_of(arguments, arguments.model, dataset(arguments.data) if arguments.data else None))
    facts = {
        "name": planned.network.name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "multiply_adds": planned.multiply_adds,
        "activation_bytes": activation_bytes(planned),
    }
    if arguments.svg:
        write_text(arguments.svg, drawing(planned))
    if arguments.json:
        print_json(facts)
    else:
        print("\n".join([*table(planned), "", *sizes(planned, arguments.model)]))


def table(planned: Plan) -> list[str]:
    """A line for the stem, for each run of alike units, and for the head."""
    lines = [planned.network.name, f"{'input':24} {shape(planned.stem[0].at)}", line("stem", planned.stem)]
    for _, alike in groupby(planned.units, key=lambda unit: (unit.stage, unit.lead, unit.branch, unit.shortcut, unit.after)):
        first, *others = alike
        name = f"stage{first.stage}.unit{first.index}" + (f"-{others[-1].index}" if others else "")
        lines.append(line(name, first.branch, unit_text(first, planned.network.unit.join)))
    lines.append(line("head", planned.head))
    return lines


def line(name: str, layers: Layers, text: str = "") -> str:
    parameters = sum(layer.parameters for layer in layers)
    return f"{name:24} {shape(layers[-1].out):14} {text or words(layers)}" + ("" if text else f"  {parameters:,}")


def unit_text(unit: PlannedUnit, join: Join) -> str:
    shortcut = {None: "no shortcut", (): "identity"}.get(unit.shortcut, words(unit.shortcut or ()))  # type: ignore[arg-type]
    parts = [
        f"{words(unit.lead)} |" if unit.lead else "",
        words(unit.branch),
        f"{sum_text(join, words(unit.gate))} {shortcut}",
        f"-> {words(unit.after)}" if unit.after else "",
    ]
    return " ".join(part for part in parts if part) + f"  {sum(layer.parameters for layer in unit.layers):,}"


def sum_text(join: Join, gate: str) -> str:
    """What stands between the branch and the shortcut; g is the gate."""
    match join:
        case Scale(a, b):
            return f"x {b:g} + {a:g} x"
        case Gate(scales="both"):
            return f"x g({gate}) + (1 - g) x"
        case Gate():
            return f"+ (1 - g({gate})) x"
        case Drop(shortcut, branch):
            kept = f"(dropped up to {branch:g}) " if branch else ""
            return f"{kept}+ dropout {shortcut:g} of" if shortcut else f"{kept}+"
    return "+"


def words(layers: Layers) -> str:
    """`3x3 bn relu 3x3/2`: kernels with their stride, and the other operations by name."""
    return " ".join(
        (f"{layer.kernel}x{layer.kernel}" if layer.out.size else "full") + (f"/{layer.stride}" if layer.stride > 1 else "")
        if layer.op == "weight"
        else layer.op
        for layer in layers
    )


def shape(value: Shape) -> str:
    return "x".join(map(str, (value.channels, *value.size)))


def sizes(planned: Plan, name: str) -> list[str]:
    paper = PUBLISHED.get(name)
    changed = planned.network != network(name)
    beside = (
        {}
        if paper is None or changed
        else {"parameters": paper.parameters, "multiply-adds": paper.multiply_adds, "error": paper.error}
    )
    rows = {
        "layers": f"{planned.depth:,}",
        "parameters": f"{planned.parameters:,}",
        "multiply-adds": f"{planned.multiply_adds:,}",
        "activations": f"{activation_bytes(planned) / 2**20:,.2f} MiB an image, kept for the backward pass in fp32",
    }
    lines = [f"{key:24} {value}" + (f"   (paper: {beside[key]})" if beside.get(key) else "") for key, value in rows.items()]
    return lines + ([f"{'error in the paper':24} {beside['error']}"] if beside.get("error") else [])
