"""Delete units of a trained network, let them change places, and see by which paths its gradient flows."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, print_json
from residua.spec.dataset import dataset


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a residual net: a run's folder (its last network) or a model folder")
    parser.add_argument("data", help="digits, cifar10, cifar100, mnist or fashion-mnist")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="RUN", help="other nets, also plain ones, to compare")
    parser.add_argument("--split", default="test", choices=("train", "dev", "test"))
    parser.add_argument("--images", type=int, help="take only the first so many of the split")
    parser.add_argument("--draws", type=int, default=5, help="random choices for each number of deletions, swaps, ... (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="the random choices follow from it")
    parser.add_argument(
        "--out", type=Path, default=Path("lesion"), help="the folder for the page and the numbers (default: lesion)"
    )
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    data = dataset(arguments.data)

    from residua.cli.progress import LesionBar
    from residua.report.lesion import results, vacant, write
    from residua.report.lesion_words import lines
    from residua.study.lesion import Choice, study
    from residua.train.machine import machine

    vacant(arguments.out)
    with LesionBar() as bar:
        found = study(
            [arguments.model, *arguments.beside], data, arguments.split, machine("fp32"), Choice(arguments.draws, arguments.seed),
            images=arguments.images, data_dir=arguments.data_dir, tell=bar,
        )  # fmt: skip
    page = write(found, arguments.out)
    if arguments.json:
        print_json(results(found) | {"page": str(page)})
    else:
        print("\n".join([*lines(found), "", f"The page: {page}"]))
