"""List the networks of the papers, with their sizes."""

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_json_option, print_json
from residua.config.families import UNIT_PARTS
from residua.config.papers import PAPER_RESULTS, list_models, network
from residua.config.plan import plan


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="which names, e.g. 'cifar-*'")
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    plans = {name: plan(network(name)) for name in list_models(arguments.pattern)}
    if arguments.json:
        sizes = [
            {
                "name": n,
                "depth": p.depth,
                "parameters": p.parameters,
                "multiply_adds": p.multiply_adds,
            }
            for n, p in plans.items()
        ]
        print_json({"models": sizes})
        return
    print(
        f"{'name':22} {'layers':>6} {'parameters':>12} {'multiply-adds':>15}   error in the paper"
    )
    for name, planned in plans.items():
        error = PAPER_RESULTS[name].error if name in PAPER_RESULTS else ""
        print(
            f"{name:22} {planned.depth:6,} {planned.parameters:12,} {planned.multiply_adds:15,}   {error}"
        )
    print(
        "Any legal depth can be named, e.g. cifar-resnet26; parts are replaced as in cifar-resnet56,shortcut=project:"
    )
    for part, values in UNIT_PARTS.items():
        print(f"  {part:9} {', '.join(values)}")
    print(
        "  width     a factor; units     of each stage, as 3-6-3; head      mean, vlad; stem      7x7, 3x3 (ImageNet)"
    )
