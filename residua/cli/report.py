"""Write the page of a study, or of a run, anew from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_json, print_json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, help="a study's folder, or a run's")
    add_json(parser)


def run(arguments: Namespace) -> None:
    from residua.report.page import results, write

    page = write(arguments.folder)
    found = results(arguments.folder)
    print_json(found) if arguments.json else print(f"{found['verdict']}\n\nThe page: {page}")
