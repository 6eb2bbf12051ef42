"""Add skip connections to a plain network, which keeps its weights."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.deepen import print_edit_summary
from residua.cli.parser import CommandParser, add_json_option
from residua.config.families import SHORTCUT_LETTERS


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model", type=Path, help="a run's folder (its last network) or a model folder"
    )
    parser.add_argument(
        "--every", type=int, default=2, help="weight layers that each skip connection leads around"
    )
    parser.add_argument(
        "--shortcut",
        default="project",
        help="where shapes differ: project (B, a new W_s) or pad (A, zeros)",
    )
    parser.add_argument("--out", type=Path, required=True, help="the new model folder")
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    shortcut = SHORTCUT_LETTERS.get(arguments.shortcut, arguments.shortcut)

    from residua.net.edit_folder import edit_model_folder
    from residua.net.surgery import residualize

    facts = edit_model_folder(
        arguments.model, arguments.out, lambda net: residualize(net, arguments.every, shortcut)
    )
    print_edit_summary(facts, arguments.json)
