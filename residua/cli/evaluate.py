"""Evaluate a trained network on a data set."""

from pathlib import Path

from jsonargparse import Namespace

from residua import data, net, report, training
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_json_option,
    add_model_argument,
    add_out_option,
    add_precision_option,
)
from residua.cli.output import print_notes, print_result
from residua.cli.parser import CommandParser
from residua.config.evaluation_results import EvaluationResult
from residua.report.format import format_percent


def add_arguments(parser: CommandParser) -> None:
    add_model_argument(parser)
    add_data_argument(parser)
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "dev", "test", "all"),
        help="the images to evaluate on",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="average the probabilities of each image and its mirror image",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature on the dev split and store it in the model folder",
    )
    add_out_option(parser, "a folder for the page and CSV tables of the evaluation (default: none)")
    add_precision_option(parser, default="fp32")
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    with training.join_process_group() as group:
        machine = training.detect_machine(arguments.precision, group=group)
        folder = net.find_model_folder(arguments.model)
        network_input = net.read_model_config(folder).network.input
        evaluation = training.evaluate_model_folder(
            folder,
            data.resolve_dataset(arguments.data, network_input),
            arguments.split,
            machine,
            arguments.data_dir,
            mirror=arguments.mirror,
            calibrate=arguments.calibrate,
        )
    if not group.is_main:
        return
    print_notes(report.list_skipped_files(evaluation))
    page = report.write_evaluation_report(evaluation, arguments.out) if arguments.out else None
    facts = report.collect_evaluation_metrics(evaluation) | ({"page": str(page)} if page else {})
    print_result(facts, format_evaluation_summary(evaluation, page), arguments.json)


def format_evaluation_summary(evaluation: EvaluationResult, page: Path | None) -> str:
    """Errors and loss on one line, then one finding per line, then the page."""
    wrong = report.describe_wrong_images(evaluation)
    error = format_percent(evaluation.error_rate, digits=2)
    top5_error = format_percent(evaluation.top5_error_rate, digits=2)
    return "\n".join(
        [
            f"{wrong}: error {error}, top-5 error {top5_error}, loss {evaluation.loss:.4f}",
            *report.describe_evaluation(evaluation)[1:],
            *(["", f"The page: {page}"] if page else []),
        ]
    )
