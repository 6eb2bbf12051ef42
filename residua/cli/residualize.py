"""Add skip connections to a plain network, which keeps its weights."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.deepen import say
from residua.cli.parser import Parser, add_json
from residua.spec.families import OPTIONS


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's folder (its last network) or a model folder")
    parser.add_argument("--every", type=int, default=2, help="weight layers that each skip connection leads around")
    parser.add_argument("--shortcut", default="project", help="where shapes differ: project (B, a new W_s) or pad (A, zeros)")
    parser.add_argument("--out", type=Path, required=True, help="the new model folder")
    add_json(parser)


def run(arguments: Namespace) -> None:
    shortcut = OPTIONS.get(arguments.shortcut, arguments.shortcut)

    from residua.net.surgery import residualize
    from residua.train.operate import operate

    facts = operate(arguments.model, arguments.out, lambda net: residualize(net, arguments.every, shortcut))
    say(facts, arguments.json)
