"""List the networks of the papers with their depths and sizes."""

from jsonargparse import Namespace

from residua.cli.options import add_json_option
from residua.cli.output import print_result
from residua.cli.parser import CommandParser
from residua.config.name_parts import UNIT_PARTS
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import list_models, network
from residua.config.plan import Plan, plan

NAMING_HELP = """\
Any depth that a family allows can be named, e.g. cifar-resnet26.  A part of the network is replaced
by adding PART=VALUE to the name, as in cifar-resnet56,shortcut=project:"""
OTHER_PARTS = {
    "width": ["a factor, e.g. 2"],
    "units": ["the units of each stage, e.g. 3-6-3"],
    "head": ["mean", "vlad"],
    "stem": ["7x7", "3x3 (ImageNet networks)"],
}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="list the names that match, e.g. 'cifar-*' (default: all)",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    plans = {name: plan(network(name)) for name in list_models(arguments.pattern)}
    print_result(
        {"models": [make_model_json(name, planned) for name, planned in plans.items()]},
        format_model_table(plans),
        arguments.json,
    )


def make_model_json(name: str, planned: Plan) -> dict[str, str | int]:
    return {
        "name": name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "multiply_adds": planned.multiply_adds,
    }


def format_model_table(plans: dict[str, Plan]) -> str:
    """One line per network, and how networks are named."""
    lines = [
        f"{'name':22} {'layers':>6} {'parameters':>12} {'multiply-adds':>15}   error in the paper"
    ]
    for name, planned in plans.items():
        error = PAPER_RESULTS[name].error if name in PAPER_RESULTS else ""
        sizes = f"{planned.depth:6,} {planned.parameters:12,} {planned.multiply_adds:15,}"
        lines.append(f"{name:22} {sizes}   {error}")
    parts = {**UNIT_PARTS, **OTHER_PARTS}
    lines.append(NAMING_HELP)
    lines += [f"  {part:9} {', '.join(values)}" for part, values in parts.items()]
    return "\n".join(lines)
