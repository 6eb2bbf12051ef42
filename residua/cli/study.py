"""Train networks of several families and depths, and write a page that compares them."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, add_recipe, print_json, recipe_of
from residua.errors import TrainingError
from residua.spec.dataset import dataset
from residua.spec.network import Network
from residua.spec.plan import plan


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--data", default="digits", help="the data set (default: digits)")
    parser.add_argument(
        "--families", nargs="+", default=["plain", "resnet", "preresnet"], help="e.g. plain highway resnet,shortcut=B"
    )
    parser.add_argument("--depths", nargs="+", type=int, default=[20, 56, 110], help="layers of each network")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="each network is trained once with each")
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
    bar = StudyBar({name: plan(run.network).depth for name, run in runs.items() if isinstance(run.network, Network)})
    try:
        failed = study(
            asked, arguments.out, precision=arguments.precision, data_dir=arguments.data_dir, workers=arguments.workers, tell=bar
        )
    finally:
        bar.close()
    if len(failed) == len(runs):
        raise TrainingError(f"no run finished: {next(iter(failed.values()))}")
    page = write(arguments.out)
    found = results(arguments.out)
    print_json(found) if arguments.json else print(f"{found['verdict']}\n\nThe page: {page}")
    if failed:
        name, why = next(iter(failed.items()))
        raise TrainingError(f"{len(failed)} of {len(runs)} runs failed, and the page says which; {name}: {why}")
