"""Write the page of a study, a run, signals or lesions anew from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_json_option, print_json


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="the folder of a study, of a run, of signals or of lesions"
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    from residua.report import lesion, signals
    from residua.report.signals_record import SIGNALS_RECORD
    from residua.report.study import collect_study_results, write_study_report

    if (arguments.folder / SIGNALS_RECORD).exists():
        findings, facts = signals.write_and_summarize_signals(arguments.folder)
        print_json(facts) if arguments.json else print(
            "\n".join([*findings, "", f"The page: {facts['page']}"])
        )
        return
    if lesion.holds_lesion_study(arguments.folder):
        lesion_study = lesion.read_lesion_study(arguments.folder)
        page, facts = (
            lesion.write_lesion_report(lesion_study, arguments.folder),
            lesion.make_lesion_json(lesion_study),
        )
    else:
        page, facts = write_study_report(arguments.folder), collect_study_results(arguments.folder)
    print_json(facts) if arguments.json else print(f"{facts['verdict']}\n\nThe page: {page}")
