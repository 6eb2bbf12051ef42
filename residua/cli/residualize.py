"""Add skip connections to a plain network; its weights stay."""

from jsonargparse import Namespace

from residua import net
from residua.cli.deepen import format_edit_summary
from residua.cli.options import (
    add_json_option,
    add_model_argument,
    add_offline_option,
    add_out_option,
)
from residua.cli.parser import CommandParser
from residua.config.name_parts import SHORTCUT_LETTERS
from residua.console.output import print_result


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "--every",
        type=int,
        default=2,
        help="the number of weight layers that each skip connection spans",
    )
    parser.add_argument(
        "--shortcut",
        default="project",
        help="the shortcut if shapes differ: project (option B, new weights W_s) "
        "or pad (option A, zeros)",
    )
    add_out_option(parser, "the new model folder", required=True)
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    shortcut = SHORTCUT_LETTERS.get(arguments.shortcut, arguments.shortcut)
    facts = net.edit_model_folder(
        arguments.model,
        arguments.out,
        lambda network: net.residualize(network, arguments.every, shortcut),
    )
    print_result(facts, format_edit_summary(facts), arguments.json)
