"""List the networks of the papers with their depths and sizes."""

from jsonargparse import Namespace

from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.config.name_parts import UNIT_PARTS
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import list_models, network
from residua.config.plan import Plan, plan
from residua.console.output import print_result

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


def describe_wide_depth(plans: dict[str, Plan]) -> str:
    """Say why wide networks have fewer layers than their name states; "" if none is listed."""
    if not any(name.startswith("cifar-wrn") for name in plans):
        return ""
    return (
        "Layers are weight layers without projections. The names of cifar-wrn networks count their "
        "three\nprojections, but not the last layer, so they are two higher."
    )


def describe_bottleneck_stride(plans: dict[str, Plan]) -> str:
    """Say which stride the multiply-adds of ImageNet bottlenecks assume; "" if none is listed."""
    if not any(has_paper_stride(planned) for planned in plans.values()):
        return ""
    return (
        "Multiply-adds of ImageNet bottlenecks are those of the papers, which stride at the first "
        "1x1. What\nothers call v1.5 strides at the 3x3 and has more: resnet50,stride=3x3."
    )


def has_paper_stride(planned: Plan) -> bool:
    """Return whether a network for ImageNet has bottlenecks that stride at their first layer."""
    unit = planned.network.unit
    is_large = planned.network.input[1:] == (224, 224)
    return is_large and unit.kernels == (1, 3, 1) and unit.stride_at == 0


def make_model_json(name: str, planned: Plan) -> dict[str, str | int]:
    return {
        "name": name,
        "depth": planned.depth,
        "parameters": planned.parameters,
        "multiply_adds": planned.multiply_adds,
    }


def format_model_table(plans: dict[str, Plan]) -> str:
    """Format a table with one line per network, followed by the rules for naming networks."""
    lines = [
        f"{'name':22} {'layers':>6} {'parameters':>12} {'multiply-adds':>15}   error in the paper"
    ]
    for name, planned in plans.items():
        error = PAPER_RESULTS[name].error if name in PAPER_RESULTS else ""
        sizes = f"{planned.depth:6,} {planned.parameters:12,} {planned.multiply_adds:15,}"
        lines.append(f"{name:22} {sizes}   {error}")
    lines += filter(None, (describe_wide_depth(plans), describe_bottleneck_stride(plans)))
    parts = {**UNIT_PARTS, **OTHER_PARTS}
    lines.append(NAMING_HELP)
    lines += [f"  {part:9} {', '.join(values)}" for part, values in parts.items()]
    return "\n".join(lines)
