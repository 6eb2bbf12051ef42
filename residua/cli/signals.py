"""Measure what passes through a network and back, unit by unit, and write a page of it."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_data_dir_option, add_json_option, print_json


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        help="a network's name, examined as it starts, or a run's folder, or a model folder",
    )
    parser.add_argument(
        "--data",
        default="",
        help="real images to show it (default: those it was trained on; CIFAR-10 or digits)",
    )
    parser.add_argument(
        "--images", type=int, default=16, help="how many, in one batch (default: 16)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights (default: 0)")
    parser.add_argument("--out", type=Path, help="the folder of the page (default: signals/NAME)")
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    from residua.analysis.run_signals import measure_signals_record
    from residua.cli.progress import SignalsBar
    from residua.report.signals import (
        choose_signals_folder,
        write_and_summarize_signals,
        write_signals_record,
    )
    from residua.training.machine import detect_machine

    folder = choose_signals_folder(arguments.out, arguments.model)
    with SignalsBar(arguments.model) as on_progress:
        signals_record = measure_signals_record(
            arguments.model,
            detect_machine("fp32"),
            data=arguments.data,
            image_count=arguments.images,
            seed=arguments.seed,
            data_dir=arguments.data_dir,
            on_progress=on_progress,
        )
    write_signals_record(signals_record, folder)
    lines, facts = write_and_summarize_signals(folder)
    print_json(facts) if arguments.json else print(
        "\n".join([*lines, "", f"The page: {facts['page']}"])
    )
