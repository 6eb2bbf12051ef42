"""Train networks of several families and depths, and write a page that compares them."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, add_recipe, print_json, recipe_of
from residua.errors import TrainingError
from residua.spec.dataset import dataset
from residua.spec.study import Arm, Study


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--data", default="digits", help="the data set (default: digits)")
    parser.add_argument(
        "--families", nargs="+", default=["plain", "resnet", "preresnet"], help="e.g. plain highway resnet,shortcut=B"
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56, 110], help="layers of each network")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="each network is trained once with each")
    add_recipe(parser)
    add_running(parser, out=Path("study"))


def add_running(parser: Parser, out: Path) -> None:
    """Options that say where and how a study's runs are carried out."""
    parser.add_argument("--out", type=Path, default=out, help=f"the study's folder (default: {out})")
    parser.add_argument("--workers", type=int, default=0, help="runs side by side (default: one a core)")
    parser.add_argument(
        "--ray", action="store_true", help="runs over the machines of a Ray cluster ($RAY_ADDRESS), which share the folder's disk"
    )
    parser.add_argument("--precision", default="auto", help="bf16, fp32 or auto")
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    data = dataset(arguments.data)
    arms = tuple(Arm(family) for family in dict.fromkeys(arguments.families))
    depths, seeds = tuple(arguments.depths), tuple(arguments.seeds)
    asked = Study(dataset=data.name, arms=arms, depths=depths, seeds=seeds, recipe=recipe_of(arguments, data))
    carry_out(asked, arguments)


def carry_out(asked: Study, arguments: Namespace) -> None:
    """Train what is not trained yet, write the page, and print what it says; TrainingError where a run failed."""
    places = asked.places()

    from residua.cli.progress import StudyBar
    from residua.report.page import results, write
    from residua.study.depth import study

    bar = StudyBar({name: place.depth for name, place in places.items()})
    try:
        failed = study(
            asked, arguments.out, precision=arguments.precision, data_dir=arguments.data_dir, workers=arguments.workers,
            ray=arguments.ray, tell=bar,
        )  # fmt: skip
    finally:
        bar.close()
    if len(failed) == len(places):
        raise TrainingError(f"no run finished: {next(iter(failed.values()))}")
    page = write(arguments.out)
    found = results(arguments.out)
    print_json(found) if arguments.json else print(f"{found['verdict']}\n\nThe page: {page}")
    if failed:
        name, why = next(iter(failed.items()))
        raise TrainingError(f"{len(failed)} of {len(places)} runs failed, and the page says which; {name}: {why}")
