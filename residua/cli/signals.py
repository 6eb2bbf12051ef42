"""Measure what passes through a network and back, unit by unit, and write a page of it."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, print_json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="a network's name, examined as it starts, or a run's folder, or a model folder")
    parser.add_argument("--data", default="", help="real images to show it (default: those it was trained on; CIFAR-10 or digits)")
    parser.add_argument("--images", type=int, default=16, help="how many, in one batch (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights (default: 0)")
    parser.add_argument("--out", type=Path, help="the folder of the page (default: signals/NAME)")
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    from residua.cli.progress import SignalsBar
    from residua.report.signals import claimed, keep, results
    from residua.study.examine import examine
    from residua.train.machine import machine

    folder = claimed(arguments.out, arguments.model)
    with SignalsBar(arguments.model) as tell:
        found = examine(
            arguments.model, machine("fp32"), data=arguments.data, images=arguments.images, seed=arguments.seed,
            data_dir=arguments.data_dir, tell=tell,
        )  # fmt: skip
    keep(found, folder)
    lines, told = results(folder)
    print_json(told) if arguments.json else print("\n".join([*lines, "", f"The page: {told['page']}"]))
