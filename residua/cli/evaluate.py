"""Evaluate a trained network on a data set."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, print_json
from residua.spec.dataset import dataset


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's folder (its last network) or a model folder, such as RUN/best")
    parser.add_argument("data", help="digits, cifar10, cifar100, mnist or fashion-mnist")
    parser.add_argument("--split", default="test", choices=("train", "dev", "test"))
    parser.add_argument("--mirror", action="store_true", help="average over each image and its mirror image")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on the dev split and keep it in the model folder"
    )
    parser.add_argument("--out", type=Path, help="a folder for a page with all of it, and for tables as CSV")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto (default: fp32)")
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    data = dataset(arguments.data)

    from residua.report.evaluation import facts, summary, write
    from residua.train.assess import assess_folder
    from residua.train.machine import machine
    from residua.train.parallel import joined

    with joined() as group:
        here = machine(arguments.precision, group=group)
        found = assess_folder(
            arguments.model, data, arguments.split, here, arguments.data_dir, mirror=arguments.mirror, calibrate=arguments.calibrate
        )
    if not group.leads:
        return
    page = write(found, arguments.out) if arguments.out else None
    if arguments.json:
        print_json(facts(found) | ({"page": str(page)} if page else {}))
        return
    print(f"{found.wrong:,} of {found.count:,} {arguments.split} images wrong: error {100 * found.error:.2f} %, ", end="")
    print(f"top-5 error {100 * found.top5_error:.2f} %, loss {found.loss:.4f}")
    print("\n".join(summary(found)[1:]))
    if page:
        print(f"\nThe page: {page}")
