"""Delete or swap units of a trained network and measure its error and its gradient paths."""

from pathlib import Path

from jsonargparse import Namespace

from residua import analysis, report, training
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_model_argument,
    add_out_option,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.config.dataset import get_dataset
from residua.console.output import print_published_split, print_result
from residua.console.progress import ProgressBar


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(
        parser, "a residual net: a run's folder (its last network is used) or a model folder"
    )
    add_data_argument(
        parser, "the data set: digits, cifar10, cifar100, cifar100-coarse, mnist or fashion-mnist"
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="other nets to compare with, residual or plain",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "dev", "test"),
        help="the images to count errors on",
    )
    parser.add_argument(
        "--images", type=int, help="use only the first N images of the split (default: all)"
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=5,
        help="random samples for each number of deleted or swapped units",
    )
    add_seed_option(parser, "these samples")
    add_out_option(parser, "the folder for the page and the numbers", default=Path("lesion"))
    add_device_option(parser)
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    dataset = get_dataset(arguments.data)
    report.check_lesion_output_folder(arguments.out)
    print_published_split(dataset, arguments.split, arguments.images)
    with ProgressBar("ablation") as bar:
        lesion_study = analysis.run_lesion_study(
            [arguments.model, *arguments.beside],
            dataset,
            arguments.split,
            training.set_up_machine("fp32", device_choice=arguments.device),
            analysis.LesionSampling(arguments.draws, arguments.seed),
            image_count=arguments.images,
            data_dir=arguments.data_dir,
            on_progress=bar.update,
        )
    page = report.write_lesion_report(lesion_study, arguments.out)
    facts = report.make_lesion_json(lesion_study) | {"page": str(page)}
    lines = [*report.format_lesion_for_terminal(lesion_study), "", f"The page: {page}"]
    print_result(facts, "\n".join(lines), arguments.json)
