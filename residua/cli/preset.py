"""The command line of a study that is written down as a Python value, e.g. `python experiments/degradation.py --steps 500`."""

import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.main import answered
from residua.cli.parser import Parser, add_recipe, changed_recipe
from residua.cli.study import add_running, carry_out
from residua.errors import UsageError, unknown
from residua.spec.study import Study


def main(study: Study, arguments: list[str] | None = None) -> int:
    """Carry out `study`, with what the command line replaces in it; the exit code is that of `residua study`."""
    file = Path(sys.argv[0]).name
    parser = Parser(prog=f"python {file}", description=study.question)
    parser.add_argument("--arms", nargs="+", help="only these: " + "; ".join(arm.title for arm in study.arms))
    parser.add_argument("--depths", nargs="+", type=int, help="only these, or others where no arm has its own")
    parser.add_argument("--seeds", nargs="+", type=int, help="each network is trained once with each")
    parser.add_argument("--data", help=f"the data set (default: {study.dataset})")
    add_recipe(parser)
    add_running(parser, out=Path("runs") / Path(file).stem)
    parsed = parser.parse_args(arguments)
    return answered(lambda: carry_out(asked(study, parsed), parsed))


def asked(study: Study, arguments: Namespace) -> Study:
    """`study` as the command line wants it."""
    arms = study.arms
    if arguments.arms:
        known = {arm.title: arm for arm in study.arms}
        for title in arguments.arms:
            if title not in known:
                raise unknown("arm", title, known)
        arms = tuple(known[title] for title in arguments.arms)
    if arguments.depths:
        own = [replace(arm, depths=tuple(depth for depth in arm.depths if depth in arguments.depths)) for arm in arms]
        arms = tuple(fewer for fewer, arm in zip(own, arms, strict=True) if fewer.depths or not arm.depths)
        if not arms:
            raise UsageError(f"no arm has {' or '.join(map(str, arguments.depths))} layers: leave --depths out, or choose others")
    return replace(
        study,
        dataset=arguments.data or study.dataset,
        arms=arms,
        depths=tuple(arguments.depths or study.depths),
        seeds=tuple(arguments.seeds or study.seeds),
        recipe=changed_recipe(arguments, study.recipe),
    )
