"""Measure activations and gradients of a network unit by unit, and write a page about them."""

from jsonargparse import Namespace

from residua import analysis, report, training
from residua.cli.options import (
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_offline_option,
    add_out_option,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.config.dataset import DATASETS
from residua.console.output import (
    print_data_summary,
    print_note,
    print_published_split,
    print_result,
)
from residua.console.progress import ProgressBar


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        help="a network's name (measured at initialisation), a run's folder, a model folder, "
        "published weights by their whole name, such as resnet50.a1_in1k (residua models "
        "--weights), or hf:OWNER/NAME on the Hugging Face hub",
    )
    parser.add_argument(
        "--data",
        default="",
        help="the data set of the images, or photographs as for train (default: the data set it "
        "was trained on; for a network's name CIFAR-10 if available, else digits)",
    )
    parser.add_argument(
        "--images", type=int, default=16, help="the number of images, all in one batch"
    )
    add_seed_option(parser, "the initial weights")
    add_out_option(parser, "the folder of the page (default: signals/NAME)")
    add_device_option(parser)
    add_data_dir_option(parser)
    add_offline_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    folder = report.choose_signals_folder(arguments.out, arguments.model)
    if note := analysis.point_to_published_weights(arguments.model):
        print_note(note)
    with ProgressBar("unit") as bar:
        signals_record = analysis.make_model_signals_record(
            arguments.model,
            training.set_up_machine("fp32", device_choice=arguments.device),
            data=arguments.data,
            image_count=arguments.images,
            seed=arguments.seed,
            data_dir=arguments.data_dir,
            on_progress=lambda done, total: bar.update(arguments.model, done, total),
            on_data=print_data_summary,
        )
    if dataset := DATASETS.get(str(signals_record["data"])):
        print_published_split(dataset, "train", arguments.images)
    report.write_signals_record(signals_record, folder)
    findings, facts = report.write_signals_report_with_data(folder)
    summary = "\n".join([*findings, "", f"The page: {facts['page']}"])
    print_result(facts, summary, arguments.json)
