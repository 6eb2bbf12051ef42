"""Delete units of a trained network, let them change places, and see by which paths its gradient flows."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_data_dir_option, add_json_option, print_json
from residua.config.dataset import get_dataset


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        help="a residual net: a run's folder (its last network) or a model folder",
    )
    parser.add_argument("data", help="digits, cifar10, cifar100, mnist or fashion-mnist")
    parser.add_argument(
        "--beside",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="other nets, also plain ones, to compare",
    )
    parser.add_argument("--split", default="test", choices=("train", "dev", "test"))
    parser.add_argument("--images", type=int, help="take only the first so many of the split")
    parser.add_argument(
        "--draws",
        type=int,
        default=5,
        help="random choices for each number of deletions, swaps, ... (default: 5)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the random choices follow from it")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("lesion"),
        help="the folder for the page and the numbers (default: lesion)",
    )
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    data = get_dataset(arguments.data)

    from residua.analysis.run_lesion import LesionSampling, run_lesion_study
    from residua.cli.progress import LesionBar
    from residua.report.lesion import (
        check_lesion_output_folder,
        make_lesion_json,
        write_lesion_report,
    )
    from residua.report.lesion_summary import format_lesion_for_terminal
    from residua.training.machine import detect_machine

    check_lesion_output_folder(arguments.out)
    with LesionBar() as bar:
        lesion_results = run_lesion_study(
            [arguments.model, *arguments.beside],
            data,
            arguments.split,
            detect_machine("fp32"),
            LesionSampling(arguments.draws, arguments.seed),
            image_count=arguments.images,
            data_dir=arguments.data_dir,
            on_progress=bar,
        )
    page = write_lesion_report(lesion_results, arguments.out)
    if arguments.json:
        print_json(make_lesion_json(lesion_results) | {"page": str(page)})
    else:
        print("\n".join([*format_lesion_for_terminal(lesion_results), "", f"The page: {page}"]))
