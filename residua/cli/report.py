"""Write the page of a study, a run, signals or lesions anew from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_json, print_json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, help="the folder of a study, of a run, of signals or of lesions")
    add_json(parser)


def run(arguments: Namespace) -> None:
    from residua.report import lesion, signals
    from residua.report.measured import RECORD
    from residua.report.page import results, write

    if (arguments.folder / RECORD).exists():
        findings, found = signals.results(arguments.folder)
        print_json(found) if arguments.json else print("\n".join([*findings, "", f"The page: {found['page']}"]))
        return
    if lesion.holds(arguments.folder):
        study = lesion.read(arguments.folder)
        page, found = lesion.write(study, arguments.folder), lesion.results(study)
    else:
        page, found = write(arguments.folder), results(arguments.folder)
    print_json(found) if arguments.json else print(f"{found['verdict']}\n\nThe page: {page}")
