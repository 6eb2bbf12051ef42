"""Insert units that start as the identity into a trained network, whose outputs stay the same to the bit."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_json_option, print_json
from residua.config.serialize import Json
from residua.errors import UsageError


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model", type=Path, help="a run's folder (its last network) or a model folder"
    )
    parser.add_argument(
        "--stage", type=int, required=True, help="which stage, from 1; the units come at its end"
    )
    parser.add_argument("--units", type=int, required=True, help="how many units to insert")
    parser.add_argument("--out", type=Path, required=True, help="the new model folder")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the new units' weights, all but the last layer's, follow from it",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if not 0 <= arguments.seed < 2**32:
        raise UsageError(
            f"seed {arguments.seed} is impossible: give a whole number from 0 to {2**32 - 1}"
        )

    from residua.net.edit_folder import edit_model_folder
    from residua.net.surgery import append_identity_units

    facts = edit_model_folder(
        arguments.model,
        arguments.out,
        lambda net: append_identity_units(net, arguments.stage, arguments.units, arguments.seed),
    )
    print_edit_summary(facts, arguments.json)


def print_edit_summary(facts: dict[str, Json], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    print(
        f"{facts['before']} -> {facts['model']}: {facts['depth']:,} layers, {facts['parameters']:,} parameters"
    )
    print(
        "The outputs of 16 random images "
        + ("are the same, to the bit." if facts["identical"] else "have changed: train it.")
    )
    print(f"Train it on: residua train DATA --from {facts['folder']}")
