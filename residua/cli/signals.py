"""Measure activations and gradients of a network unit by unit, and write a page about them."""

from jsonargparse import Namespace

from residua import analysis, report, training
from residua.cli.options import (
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_out_option,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.config.dataset import get_dataset
from residua.console.output import print_published_split, print_result
from residua.console.progress import ProgressBar


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        help="a network's name (measured at initialisation), a run's folder, a model folder, or "
        "hf:OWNER/NAME on the Hugging Face hub",
    )
    parser.add_argument(
        "--data",
        default="",
        help="the data set of the images (default: the one it was trained on; for a network's "
        "name CIFAR-10 if available, else digits)",
    )
    parser.add_argument(
        "--images", type=int, default=16, help="the number of images, all in one batch"
    )
    add_seed_option(parser, "the initial weights")
    add_out_option(parser, "the folder of the page (default: signals/NAME)")
    add_device_option(parser)
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    folder = report.choose_signals_folder(arguments.out, arguments.model)
    with ProgressBar("unit") as bar:
        signals_record = analysis.make_model_signals_record(
            arguments.model,
            training.set_up_machine("fp32", device_choice=arguments.device),
            data=arguments.data,
            image_count=arguments.images,
            seed=arguments.seed,
            data_dir=arguments.data_dir,
            on_progress=lambda done, total: bar.update(arguments.model, done, total),
        )
    print_published_split(get_dataset(str(signals_record["data"])), "train", arguments.images)
    report.write_signals_record(signals_record, folder)
    findings, facts = report.write_signals_report_with_data(folder)
    summary = "\n".join([*findings, "", f"The page: {facts['page']}"])
    print_result(facts, summary, arguments.json)
