"""Regenerate the report of a study, a run, signals or lesions from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua import report
from residua.cli.options import add_json_option
from residua.cli.output import print_result
from residua.cli.parser import CommandParser
from residua.config.serialize import Json


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="the folder of a study, a run, signals or lesions"
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    facts, findings = regenerate_report(arguments.folder)
    print_result(facts, findings, arguments.json)


def regenerate_report(folder: Path) -> tuple[dict[str, Json], str]:
    """Write the report for the kind of records in `folder`; returns its facts and its findings."""
    if (folder / report.SIGNALS_RECORD).exists():
        findings, facts = report.write_and_summarize_signals(folder)
        return facts, "\n".join([*findings, "", f"The page: {facts['page']}"])
    if report.holds_lesion_study(folder):
        lesion_study = report.read_lesion_study(folder)
        page = report.write_lesion_report(lesion_study, folder)
        facts = report.make_lesion_json(lesion_study)
    else:
        study_summary = report.read_study_summary(folder)
        page = report.write_study_report(study_summary, folder)
        facts = report.make_study_results(study_summary) | {"page": str(page)}
    return facts, f"{facts['verdict']}\n\nThe page: {page}"
