"""Regenerate the report of a study, a run, an evaluation, signals or lesions from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua import report
from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.config.serialize import Json
from residua.console.output import print_notes, print_result
from residua.errors import ResiduaError, UsageError
from residua.report.evaluation_page import EVALUATION_RECORD
from residua.report.format import format_counted_noun
from residua.report.run_page import EVALUATION_FOLDER
from residua.study_records import PACKED_RUNS, pack_runs


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="the folder of a study, a run, an evaluation, signals or lesions"
    )
    parser.add_argument(
        "--pack",
        action="store_true",
        help="first move the records of a finished study into one file, runs.jsonl",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.pack:
        move_records_into_one_file(arguments.folder)
    facts, findings = regenerate_report(arguments.folder)
    print_result(facts, findings, arguments.json)


def move_records_into_one_file(folder: Path) -> None:
    """Move the records of a study's runs into one file, runs.jsonl.

    Raises UsageError if the folder is not a study, or if a run is unfinished.
    """
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}: give the folder of a study")
    if not (folder / "study.json").exists():
        raise UsageError(
            f"--pack needs the folder of a study, but {folder} has no study.json: "
            "give a study's folder, or leave --pack out"
        )
    count = pack_runs(folder)
    print_notes([f"packed {format_counted_noun(count, 'run')} into {folder / PACKED_RUNS}"])


def regenerate_report(folder: Path) -> tuple[dict[str, Json], str]:
    """Write the report for the kind of records in `folder`.

    Returns the values that `--json` prints, and the text that is printed otherwise.
    """
    if report.holds_run_records(folder):
        if report.holds_lesion_study(folder):
            set_aside_lesion_record(folder)
        return regenerate_run_or_study_page(folder)
    if (folder / report.SIGNALS_RECORD).exists():
        findings, facts = report.write_signals_report_with_data(folder)
        return facts, "\n".join([*findings, "", f"The page: {facts['page']}"])
    if (folder / EVALUATION_RECORD).exists():
        evaluation = report.read_evaluation(folder)
        page = report.write_evaluation_report(evaluation, folder)
        facts = report.collect_evaluation_metrics(evaluation) | {"page": str(page)}
        return facts, "\n".join([*report.describe_evaluation(evaluation), "", f"The page: {page}"])
    if report.holds_lesion_study(folder):
        lesion_study = report.read_lesion_study(folder)
        page = report.write_lesion_report(lesion_study, folder)
        facts = report.make_lesion_json(lesion_study) | {"page": str(page)}
        return facts, f"{facts['verdict']}\n\nThe page: {page}"
    return regenerate_run_or_study_page(folder)  # which says that there are no records


def regenerate_run_or_study_page(folder: Path) -> tuple[dict[str, Json], str]:
    """Write the page of a run, and that of its evaluation, or else the page of a study."""
    summary = report.read_study_summary(folder)
    if (folder / "run.json").exists():
        regenerate_evaluation_page(folder / EVALUATION_FOLDER)
        page, results = report.write_run_report(summary, folder), report.make_run_results(summary)
    else:
        page = report.write_study_report(summary, folder)
        results = report.make_study_results(summary)
    return results | {"page": str(page)}, f"{results['verdict']}\n\nThe page: {page}"


def regenerate_evaluation_page(folder: Path) -> None:
    """Write the page of a run's evaluation again, if the run has one; a note says if that fails."""
    if not (folder / EVALUATION_RECORD).exists():
        return
    try:
        report.write_evaluation_report(report.read_evaluation(folder), folder)
    except ResiduaError as error:
        print_notes([f"the page of the evaluation was not written: {error}"])


def set_aside_lesion_record(folder: Path) -> None:
    """Rename the results.json of a lesion study, which a study's report would overwrite."""
    kept = folder / "lesion-results.json"
    if kept.exists():
        raise UsageError(
            f"{folder} also holds a lesion study's results.json, which the report of this study "
            "would overwrite: move that file to another folder"
        )
    (folder / report.LESION_RECORD).rename(kept)
    print_notes([f"{folder / report.LESION_RECORD} of a lesion study is now called {kept.name}"])
