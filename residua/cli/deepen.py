"""Insert units that start as the identity into a trained network; its outputs do not change."""

from jsonargparse import Namespace

from residua import net
from residua.cli.options import (
    add_json_option,
    add_model_argument,
    add_offline_option,
    add_out_option,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.config.checks import check_seed_range
from residua.config.serialize import Json
from residua.console.output import print_result


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "--stage",
        type=int,
        required=True,
        help="the number of the stage, from 1; the units are appended to its end",
    )
    parser.add_argument("--units", type=int, required=True, help="the number of units to insert")
    add_out_option(parser, "the new model folder", required=True)
    add_seed_option(parser, "the new units' weights; their last layer's are always 0")
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    check_seed_range(arguments.seed)
    facts = net.edit_model_folder(
        arguments.model,
        arguments.out,
        lambda network: net.append_identity_units(
            network, arguments.stage, arguments.units, arguments.seed
        ),
    )
    print_result(facts, format_edit_summary(facts), arguments.json)


def format_edit_summary(facts: dict[str, Json]) -> str:
    """Format the new network's name and size, whether its outputs changed, and how to train it."""
    outputs = "are bit-identical." if facts["identical"] else "have changed: train the network."
    return "\n".join(
        [
            f"{facts['before']} -> {facts['model']}: "
            f"{facts['depth']:,} layers, {facts['parameters']:,} parameters",
            f"The outputs for 16 random images {outputs}",
            f"Continue training with: residua train DATA --from {facts['folder']}",
        ]
    )
