"""List the networks of the papers with their depths and sizes, or published weights."""

from fnmatch import filter as fnmatch_filter
from fnmatch import fnmatch

from jsonargparse import Namespace

from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.config.name_parts import HEADS, STEMS, UNIT_PARTS
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import list_models, network
from residua.config.plan import Plan, plan
from residua.config.published_weights import PublishedWeights
from residua.config.weight_registry import list_short_names, list_weights
from residua.console.output import print_result
from residua.report.format import format_percent

NAMING_HELP = """\
Any depth that a family allows can be named, e.g. cifar-resnet26.  A part of the network is replaced
by adding PART=VALUE to the name, as in cifar-resnet56,shortcut=project:"""
WEIGHTS_HELP = """\
Errors are those that the publishers state for ImageNet.  Names that end in _cifar10 are of networks
that come with residua; their errors are those on CIFAR-10's test images.  A short name stands for
the weights of its net with the lowest error at 224 pixels, among those whose whole SHA-256 sum is
known, or else its first digits; a licence with nc forbids commercial use.  RESIDUA_WEIGHTS names a
JSON file with others."""
OTHER_PARTS = {
    "width": ["a factor, e.g. 2 or 0.5"],
    "groups": ["number and width of the groups of a bottleneck's 3x3, e.g. 32x4d"],
    "units": ["the units of each stage, e.g. 3-6-3"],
    "head": [*HEADS],
    "stem": [*STEMS, "in networks for ImageNet only"],
    "widths": ["those of the stages of cifar-record networks, e.g. 128-384-512"],
}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="list the names that match, e.g. 'cifar-*' (default: all)",
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="list the published weights that can be given wherever a model is named",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.weights:
        print_weights(arguments.pattern, arguments.json)
        return
    plans = {name: plan(network(name)) for name in list_models(arguments.pattern)}
    print_result(
        {"models": [make_model_json(name, planned) for name, planned in plans.items()]},
        format_model_table(plans),
        arguments.json,
    )


def print_weights(pattern: str, as_json: bool) -> None:
    """Print the published weights whose name, or short name, matches a shell pattern."""
    weights = list_weights()
    short_names = list_short_names(weights.values())
    listed = [
        entry
        for name, entry in weights.items()
        if fnmatch(name, pattern) or fnmatch(entry.short_name, pattern)
    ]
    facts = [
        {
            "name": entry.name,
            "network": entry.network,
            "address": entry.address,
            "sha256": entry.sha256,
            "classes": len(entry.classes),
            "dataset": entry.measured_on,
            "top1_error": entry.top1_error,
            "licence": entry.licence,
            "stands_for": entry.short_name if short_names[entry.short_name] == entry else None,
        }
        for entry in listed
    ]
    text = format_weight_table(listed, short_names) if listed else f"no weights match {pattern}"
    if not listed and (count := len(fnmatch_filter(short_names, f"{pattern}*"))):
        text += f", but {count} match '{pattern}*'"
    print_result({"weights": facts}, text, as_json)


def format_weight_table(
    weights: list[PublishedWeights], short_names: dict[str, PublishedWeights]
) -> str:
    """Format a table with one line per entry, and what the columns mean."""
    lines = [f"{'name':38} {'top-1 error':>11} {'pixels':>6}  {'licence':13} {'SHA-256':12} short"]
    for entry in weights:
        error = "" if entry.top1_error is None else format_percent(entry.top1_error, digits=2)
        short_name = entry.short_name if short_names[entry.short_name] == entry else ""
        sum_digits = entry.sha256[:12] or "the hub's"
        lines.append(
            f"{entry.name:38} {error:>11} {entry.side:>6}  {entry.licence:13} {sum_digits:12} "
            f"{short_name}".rstrip()
        )
    return "\n".join([*lines, WEIGHTS_HELP])


def describe_depths_in_names(plans: dict[str, Plan]) -> str:
    """Say why some networks have other depths than their name states; "" if none is listed."""
    sentences = []
    if any(name.startswith("cifar-wrn") for name in plans):
        sentences.append(
            "The names of cifar-wrn networks count their\nthree projections, but not the last "
            "layer, so they are two higher."
        )
    if any(planned.network.stem.inner_widths for planned in plans.values()):
        sentences.append("Names count the three layers of a\ndeep stem as one.")
    if not sentences:
        return ""
    return " ".join(["Layers are weight layers without projections.", *sentences])


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
    lines += filter(None, (describe_depths_in_names(plans), describe_bottleneck_stride(plans)))
    parts = {**UNIT_PARTS, **OTHER_PARTS}
    lines.append(NAMING_HELP)
    lines += [f"  {part:9} {', '.join(values)}" for part, values in parts.items()]
    return "\n".join(lines)
