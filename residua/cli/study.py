"""Train networks of several families and depths, and write a page that compares them."""

from pathlib import Path

from jsonargparse import Namespace

from residua import report, studies
from residua.cli.options import (
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_out_option,
    add_precision_option,
    add_recipe_options,
    apply_recipe_options,
    is_given,
)
from residua.cli.parser import CommandParser
from residua.config.dataset import Dataset
from residua.config.study import Arm, Study
from residua.console.output import DataSummaryRecorder, print_notes, print_result
from residua.console.progress import ProgressBar, StudyProgress
from residua.errors import TrainingError

RECIPE_OPTIONS = ("recipe", "steps", "epochs")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--data",
        default="digits",
        help="the data set: digits, cifar10, cifar100, cifar100-coarse, mnist, fashion-mnist or "
        "imagenet, or the path of photographs (default: digits)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side in pixels of the square crops of photographs, 8 to 1024 (default: chosen)",
    )
    parser.add_argument(
        "--families",
        nargs="+",
        default=["plain", "resnet", "preresnet"],
        help="the families to compare, e.g. plain highway resnet,shortcut=B",
    )
    parser.add_argument(
        "--depths", nargs="+", type=int, default=[20, 56, 110], help="the depths in layers"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1],
        help="the random seeds; each network is trained once per seed",
    )
    add_folds_option(parser, "0, the usual dev images")
    add_recipe_options(parser, default="chosen for photographs, small for digits, else he2015")
    add_execution_options(parser, default_folder=Path("study"))


def add_folds_option(parser: CommandParser, default: str) -> None:
    """Add the option for cross-validation; `default` describes the number of folds without it."""
    parser.add_argument(
        "--folds",
        type=int,
        help="cross-validation: divide the training images into this many folds, and train each "
        f"network once for each fold that is held out (default: {default})",
    )


def add_execution_options(parser: CommandParser, default_folder: Path) -> None:
    """Add options that say where the runs of a study are trained and stored."""
    add_out_option(parser, "the study's folder", default=default_folder)
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that train runs at the same time (default: 0, which means one per CPU "
        "core, or on a GPU a single process that trains up to four runs at once)",
    )
    parser.add_argument(
        "--ray",
        action="store_true",
        help="train the runs on the machines of a Ray cluster ($RAY_ADDRESS), which share the "
        "disk of the folder",
    )
    add_device_option(parser)
    add_precision_option(parser, default="auto")
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    chosen = studies.choose_study_data(
        arguments.data, arguments.size, arguments.device, arguments.data_dir
    )
    settled = {name for name in RECIPE_OPTIONS if is_given(arguments, name)}
    print_notes(
        f"{why} (override: --{option})"
        for option, why in chosen.reasons.items()
        if option != "recipe" or not settled
    )
    study = Study(
        dataset=chosen.name,
        arms=tuple(Arm(family) for family in dict.fromkeys(arguments.families)),
        depths=tuple(arguments.depths),
        seeds=tuple(arguments.seeds),
        recipe=apply_recipe_options(arguments, chosen.recipe),
        folds=arguments.folds or 0,
        size=chosen.size,
    )
    run_and_report_study(study, arguments, chosen.dataset)


def run_and_report_study(
    study: Study, arguments: Namespace, dataset: Dataset | None = None
) -> None:
    """Train the unfinished runs of a study, write its page, and print the verdict.

    `dataset` is the study's data set, if it is resolved already.  Raises TrainingError if a run
    failed; the page is still written if at least one run finished.
    """
    points_by_run = study.points_by_run_name()
    dataset = dataset or studies.resolve_study_dataset(study, arguments.data_dir)
    runs_at_once: list[int] = []
    print_summary = DataSummaryRecorder(is_main=True)
    with ProgressBar() as bar:
        failures = studies.train_study(
            study,
            arguments.out,
            precision=arguments.precision,
            device_choice=arguments.device,
            data_dir=arguments.data_dir,
            workers=arguments.workers,
            ray=arguments.ray,
            data=dataset,
            on_data=print_summary,
            on_start=runs_at_once.append,
            on_progress=StudyProgress(
                bar, {name: point.depth for name, point in points_by_run.items()}
            ),
        )
    if len(failures) == len(points_by_run):
        raise TrainingError(f"no run finished: {next(iter(failures.values()))}")
    study_summary = report.read_study_summary(arguments.out)
    page = report.write_study_report(study_summary, arguments.out)
    facts = report.make_study_results(study_summary) | {"page": str(page)}
    facts["packed"] = sum(runs_at_once)
    facts |= print_summary.json
    print_result(facts, f"{facts['verdict']}\n\nThe page: {page}", arguments.json)
    if failures:
        name, reason = next(iter(failures.items()))
        raise TrainingError(
            f"{len(failures)} of {len(points_by_run)} runs failed (the report page lists them), "
            f"e.g. {name}: {reason}"
        )
