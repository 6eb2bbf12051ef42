"""Evaluate a trained network on a data set."""

import sys
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_data_dir_option, add_json_option, print_json


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        help="a run's folder (its last network) or a model folder, such as RUN/best",
    )
    parser.add_argument(
        "data",
        help="digits, cifar10, ...; photographs: a folder by class, a table of path,label, shards, hf:OWNER/NAME",
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "dev", "test", "all"),
        help="which images (default: test)",
    )
    parser.add_argument(
        "--mirror", action="store_true", help="average over each image and its mirror image"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature on the dev split and keep it in the model folder",
    )
    parser.add_argument(
        "--out", type=Path, help="a folder for a page with all of it, and for tables as CSV"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto (default: fp32)")
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    from residua.data.sources.image_folder import resolve_dataset
    from residua.net.model_folder import read_model_config
    from residua.report.evaluation_page import (
        collect_evaluation_metrics,
        describe_evaluation,
        list_skipped_files,
        write_evaluation_report,
    )
    from residua.training.assess import evaluate_model_folder
    from residua.training.distributed import join_process_group
    from residua.training.evaluate import find_model_folder
    from residua.training.machine import detect_machine

    with join_process_group() as group:
        this_machine, folder = (
            detect_machine(arguments.precision, group=group),
            find_model_folder(arguments.model),
        )
        data = resolve_dataset(arguments.data, read_model_config(folder).network.input)
        evaluation = evaluate_model_folder(
            folder,
            data,
            arguments.split,
            this_machine,
            arguments.data_dir,
            mirror=arguments.mirror,
            calibrate=arguments.calibrate,
        )
    if not group.is_main:
        return
    for sentence in list_skipped_files(evaluation):
        print(f"residua: {sentence}", file=sys.stderr)
    page = write_evaluation_report(evaluation, arguments.out) if arguments.out else None
    if arguments.json:
        print_json(collect_evaluation_metrics(evaluation) | ({"page": str(page)} if page else {}))
        return
    print(
        f"{evaluation.wrong:,} of {evaluation.count:,} {arguments.split} images wrong: error {100 * evaluation.error_rate:.2f} %, ",
        end="",
    )
    print(f"top-5 error {100 * evaluation.top5_error_rate:.2f} %, loss {evaluation.loss:.4f}")
    print("\n".join(describe_evaluation(evaluation)[1:]))
    if page:
        print(f"\nThe page: {page}")
