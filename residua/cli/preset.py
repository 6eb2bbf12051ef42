"""The command line of a script that defines one study.

Example: `python experiments/degradation.py --steps 500`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.main import run_reporting_errors
from residua.cli.option_groups import group_options
from residua.cli.options import add_recipe_options, apply_recipe_options
from residua.cli.parser import CommandParser
from residua.cli.streams import prepare_streams_and_environment
from residua.cli.study import add_execution_options, add_folds_option, run_and_report_study
from residua.config.study import Arm, Study
from residua.errors import UsageError, unknown_name_error


def run_study_script(study: Study, arguments: list[str] | None = None) -> int:
    """Run `study` with the changes that the command line asks for, and return an exit code.

    The exit codes are those of `residua study`.
    """
    prepare_streams_and_environment()
    file = Path(sys.argv[0]).name
    parser = CommandParser(prog=f"python {file}", description=study.question)
    parser.add_argument(
        "--arms",
        nargs="+",
        help=f"only these arms: {'; '.join(arm.title for arm in study.arms)} (default: all)",
    )
    parser.add_argument(
        "--depths",
        nargs="+",
        type=int,
        help="these depths in layers; arms with depths of their own keep those that are listed "
        "(default: the study's)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        help="the random seeds; each network is trained once per seed (default: the study's)",
    )
    parser.add_argument("--data", help=f"the data set (default: {study.dataset})")
    add_folds_option(parser, str(study.folds))
    add_recipe_options(parser, default="the study's")
    add_execution_options(parser, default_folder=Path("runs") / Path(file).stem)
    group_options(parser)

    def run_script() -> None:
        parsed = parser.parse_args(arguments)
        run_and_report_study(apply_study_options(study, parsed), parsed)

    return run_reporting_errors(run_script)


def apply_study_options(study: Study, arguments: Namespace) -> Study:
    """Return a copy of `study` with the arms, depths, seeds, data set and recipe of the options."""
    arms = select_arms(study.arms, arguments.arms) if arguments.arms else study.arms
    if arguments.depths:
        arms = restrict_own_arm_depths(arms, arguments.depths)
    return replace(
        study,
        dataset=arguments.data or study.dataset,
        arms=arms,
        depths=tuple(arguments.depths or study.depths),
        seeds=tuple(arguments.seeds or study.seeds),
        recipe=apply_recipe_options(arguments, study.recipe),
        folds=study.folds if arguments.folds is None else arguments.folds,
    )


def select_arms(arms: tuple[Arm, ...], titles: list[str]) -> tuple[Arm, ...]:
    """Select the arms with these titles.  Raises UsageError for an unknown title."""
    arms_by_title = {arm.title: arm for arm in arms}
    for title in titles:
        if title not in arms_by_title:
            raise unknown_name_error("arm", title, arms_by_title)
    return tuple(arms_by_title[title] for title in titles)


def restrict_own_arm_depths(arms: tuple[Arm, ...], depths: list[int]) -> tuple[Arm, ...]:
    """Restrict the arms that have their own depths to the given depths.

    An arm whose own depths are all removed is dropped; arms without own depths are kept unchanged.
    Raises UsageError if no arm is left.
    """
    limited_arms = []
    for arm in arms:
        own_depths = tuple(depth for depth in arm.depths if depth in depths)
        if own_depths or not arm.depths:
            limited_arms.append(replace(arm, depths=own_depths))
    if not limited_arms:
        raise UsageError(
            f"no arm has {' or '.join(map(str, depths))} layers: "
            "leave --depths out, or choose others"
        )
    return tuple(limited_arms)
