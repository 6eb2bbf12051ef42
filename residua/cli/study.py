"""Train networks of several families and depths, and write a page that compares them."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import (
    CommandParser,
    add_data_dir_option,
    add_json_option,
    add_recipe_options,
    parse_recipe_options,
    print_json,
)
from residua.config.dataset import get_dataset
from residua.config.study import Arm, Study
from residua.errors import TrainingError


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--data", default="digits", help="the data set (default: digits)")
    parser.add_argument(
        "--families",
        nargs="+",
        default=["plain", "resnet", "preresnet"],
        help="e.g. plain highway resnet,shortcut=B",
    )
    parser.add_argument(
        "--depths", nargs="+", type=int, default=[20, 56, 110], help="layers of each network"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1],
        help="each network is trained once with each",
    )
    add_recipe_options(parser)
    add_execution_options(parser, default_folder=Path("study"))


def add_execution_options(parser: CommandParser, default_folder: Path) -> None:
    """Options that say where and how a study's runs are carried out."""
    parser.add_argument(
        "--out",
        type=Path,
        default=default_folder,
        help=f"the study's folder (default: {default_folder})",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="runs side by side (default: one a core)"
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="runs over the machines of a Ray cluster ($RAY_ADDRESS), which share the folder's disk",
    )
    parser.add_argument("--precision", default="auto", help="bf16, fp32 or auto")
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    data = get_dataset(arguments.data)
    arms = tuple(Arm(family) for family in dict.fromkeys(arguments.families))
    depths, seeds = tuple(arguments.depths), tuple(arguments.seeds)
    study_config = Study(
        dataset=data.name,
        arms=arms,
        depths=depths,
        seeds=seeds,
        recipe=parse_recipe_options(arguments, data),
    )
    run_and_report_study(study_config, arguments)


def run_and_report_study(study_config: Study, arguments: Namespace) -> None:
    """Train what is not trained yet, write the page, and print what it says; TrainingError where a run failed."""
    places_by_run = study_config.points_by_run_name()

    from residua.cli.progress import StudyBar
    from residua.report.study import collect_study_results, write_study_report
    from residua.studies.run_study import run_study

    bar = StudyBar({name: place.depth for name, place in places_by_run.items()})
    try:
        failures = run_study(
            study_config,
            arguments.out,
            precision=arguments.precision,
            data_dir=arguments.data_dir,
            workers=arguments.workers,
            ray=arguments.ray,
            on_progress=bar,
        )
    finally:
        bar.close()
    if len(failures) == len(places_by_run):
        raise TrainingError(f"no run finished: {next(iter(failures.values()))}")
    page = write_study_report(arguments.out)
    facts = collect_study_results(arguments.out)
    print_json(facts) if arguments.json else print(f"{facts['verdict']}\n\nThe page: {page}")
    if failures:
        name, reason = next(iter(failures.items()))
        raise TrainingError(
            f"{len(failures)} of {len(places_by_run)} runs failed, and the page says which; {name}: {reason}"
        )
