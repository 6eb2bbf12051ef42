"""Delete or swap units of a trained network and measure its error and its gradient paths."""

from pathlib import Path

from jsonargparse import Namespace

from residua import analysis, report, training
from residua.cli.options import (
    MODEL_HELP,
    add_data_argument,
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_model_argument,
    add_offline_option,
    add_out_option,
    add_seed_option,
    parse_model_path,
)
from residua.cli.parser import CommandParser
from residua.config.dataset import DATASETS
from residua.console.output import print_data_summary, print_published_split, print_result
from residua.console.progress import ProgressBar


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser, f"a residual net: {MODEL_HELP}")
    add_data_argument(parser)
    parser.add_argument(
        "--beside",
        nargs="+",
        type=parse_model_path,
        default=[],
        metavar="RUN",
        help="other nets to compare with, residual or plain",
    )
    parser.add_argument(
        "--split",
        choices=("train", "dev", "test", "all"),
        help="the images to count errors on (default: test; all images of photographs without "
        "splits that the model was not trained on)",
    )
    parser.add_argument(
        "--images",
        type=int,
        help="use only the first N images of the split, or N photographs spread over it "
        "(default: all)",
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
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    dataset = DATASETS.get(arguments.data)
    report.check_lesion_output_folder(arguments.out)
    if dataset is not None:
        print_published_split(dataset, arguments.split or "test", arguments.images)
    with ProgressBar("ablation") as bar:
        lesion_study = analysis.run_lesion_study(
            [arguments.model, *arguments.beside],
            arguments.data,
            arguments.split,
            training.set_up_machine("fp32", device_choice=arguments.device),
            analysis.LesionSampling(arguments.draws, arguments.seed),
            image_count=arguments.images,
            data_dir=arguments.data_dir,
            on_progress=bar.update,
            on_data=print_data_summary,
        )
    page = report.write_lesion_report(lesion_study, arguments.out)
    facts = report.make_lesion_json(lesion_study) | {"page": str(page)}
    lines = [*report.format_lesion_for_terminal(lesion_study), "", f"The page: {page}"]
    print_result(facts, "\n".join(lines), arguments.json)
