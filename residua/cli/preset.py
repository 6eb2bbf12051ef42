"""The command line of a study that is written down as a Python value, e.g. `python experiments/degradation.py --steps 500`."""

import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.main import run_reporting_errors
from residua.cli.parser import CommandParser, add_recipe_options, apply_recipe_options
from residua.cli.study import add_execution_options, run_and_report_study
from residua.config.study import Study
from residua.errors import UsageError, unknown_name_error


def run_study_script(study: Study, arguments: list[str] | None = None) -> int:
    """Carry out `study`, with what the command line replaces in it; the exit code is that of `residua study`."""
    file = Path(sys.argv[0]).name
    parser = CommandParser(prog=f"python {file}", description=study.question)
    parser.add_argument(
        "--arms", nargs="+", help="only these: " + "; ".join(arm.title for arm in study.arms)
    )
    parser.add_argument(
        "--depths", nargs="+", type=int, help="only these, or others where no arm has its own"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="each network is trained once with each"
    )
    parser.add_argument("--data", help=f"the data set (default: {study.dataset})")
    add_recipe_options(parser)
    add_execution_options(parser, default_folder=Path("runs") / Path(file).stem)
    parsed = parser.parse_args(arguments)
    return run_reporting_errors(
        lambda: run_and_report_study(apply_study_options(study, parsed), parsed)
    )


def apply_study_options(study: Study, arguments: Namespace) -> Study:
    """`study` as the command line wants it."""
    arms = study.arms
    if arguments.arms:
        arms_by_title = {arm.title: arm for arm in study.arms}
        for title in arguments.arms:
            if title not in arms_by_title:
                raise unknown_name_error("arm", title, arms_by_title)
        arms = tuple(arms_by_title[title] for title in arguments.arms)
    if arguments.depths:
        arms_at_depths = [
            replace(arm, depths=tuple(depth for depth in arm.depths if depth in arguments.depths))
            for arm in arms
        ]
        arms = tuple(
            fewer
            for fewer, arm in zip(arms_at_depths, arms, strict=True)
            if fewer.depths or not arm.depths
        )
        if not arms:
            raise UsageError(
                f"no arm has {' or '.join(map(str, arguments.depths))} layers: leave --depths out, or choose others"
            )
    return replace(
        study,
        dataset=arguments.data or study.dataset,
        arms=arms,
        depths=tuple(arguments.depths or study.depths),
        seeds=tuple(arguments.seeds or study.seeds),
        recipe=apply_recipe_options(arguments, study.recipe),
    )
