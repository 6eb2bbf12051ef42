"""Evaluate a trained network on a data set."""

import sys
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, print_json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's folder (its last network) or a model folder, such as RUN/best")
    parser.add_argument(
        "data", help="digits, cifar10, ...; photographs: a folder by class, a table of path,label, shards, hf:OWNER/NAME"
    )
    parser.add_argument("--split", default="test", choices=("train", "dev", "test", "all"), help="which images (default: test)")
    parser.add_argument("--mirror", action="store_true", help="average over each image and its mirror image")
    parser.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on the dev split and keep it in the model folder"
    )
    parser.add_argument("--out", type=Path, help="a folder for a page with all of it, and for tables as CSV")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto (default: fp32)")
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    from residua.data.folder import data_of
    from residua.net.folder import read_config
    from residua.report.evaluation import facts, left_out, summary, write
    from residua.train.assess import assess_folder
    from residua.train.evaluate import model_folder
    from residua.train.machine import machine
    from residua.train.parallel import joined

    with joined() as group:
        here, folder = machine(arguments.precision, group=group), model_folder(arguments.model)
        data = data_of(arguments.data, read_config(folder).network.input)
        found = assess_folder(
            folder, data, arguments.split, here, arguments.data_dir, mirror=arguments.mirror, calibrate=arguments.calibrate
        )
    if not group.leads:
        return
    for sentence in left_out(found):
        print(f"residua: {sentence}", file=sys.stderr)
    page = write(found, arguments.out) if arguments.out else None
    if arguments.json:
        print_json(facts(found) | ({"page": str(page)} if page else {}))
        return
    print(f"{found.wrong:,} of {found.count:,} {arguments.split} images wrong: error {100 * found.error:.2f} %, ", end="")
    print(f"top-5 error {100 * found.top5_error:.2f} %, loss {found.loss:.4f}")
    print("\n".join(summary(found)[1:]))
    if page:
        print(f"\nThe page: {page}")
