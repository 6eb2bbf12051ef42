"""Train networks of several families and depths, and write a page that compares them."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, add_recipe, print_json, recipe_of
from residua.spec.dataset import dataset
from residua.spec.plan import plan


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--data", default="digits", help="the data set (default: digits)")
    parser.add_argument(
        "--families", nargs="+", default=["plain", "resnet", "preresnet"], help="e.g. plain resnet,shortcut=project"
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56, 110])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    add_recipe(parser)
    parser.add_argument("--out", type=Path, default=Path("study"), help="the study's folder (default: study)")
    parser.add_argument("--workers", type=int, default=0, help="runs side by side (default: one a core)")
    parser.add_argument("--precision", default="auto", help="bf16, fp32 or auto")
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    data = dataset(arguments.data)

    from residua.cli.progress import StudyBar
    from residua.report.page import results, write
    from residua.study.depth import Study, study

    asked = Study(
        dataset=data.name,
        families=tuple(arguments.families),
        depths=tuple(arguments.depths),
        seeds=tuple(arguments.seeds),
        recipe=recipe_of(arguments, data),
    )
    runs = asked.runs()
    bar = StudyBar({name: plan(run.network).depth for name, run in runs.items()})
    try:
        study(asked, arguments.out, precision=arguments.precision, data_dir=arguments.data_dir, workers=arguments.workers, tell=bar)
    finally:
        bar.close()
    page = write(arguments.out)
    found = results(arguments.out)
    print_json(found) if arguments.json else print(f"{found['verdict']}\n\nThe page: {page}")
