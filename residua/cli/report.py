"""Regenerate the report of a study, a run, signals or lesions from its records."""

from pathlib import Path

from jsonargparse import Namespace

from residua import report
from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.config.serialize import Json
from residua.console.output import print_notes, print_result
from residua.errors import UsageError
from residua.report.format import format_counted_noun
from residua.study_records import PACKED_RUNS, pack_runs


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="the folder of a study, a run, signals or lesions"
    )
    parser.add_argument(
        "--pack",
        action="store_true",
        help="first move the records of a finished study into one file, runs.jsonl",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.pack:
        pack_study_records(arguments.folder)
    facts, findings = regenerate_report(arguments.folder)
    print_result(facts, findings, arguments.json)


def pack_study_records(folder: Path) -> None:
    """Move the records of a study's runs into one file, runs.jsonl.

    Raises UsageError if the folder is not a study, or if a run is unfinished.
    """
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
    is_study = report.holds_run_records(folder)
    if is_study and report.holds_lesion_study(folder):
        keep_lesion_record(folder)
    elif not is_study and (folder / report.SIGNALS_RECORD).exists():
        findings, facts = report.write_and_summarize_signals(folder)
        return facts, "\n".join([*findings, "", f"The page: {facts['page']}"])
    if not is_study and report.holds_lesion_study(folder):
        lesion_study = report.read_lesion_study(folder)
        page = report.write_lesion_report(lesion_study, folder)
        facts = report.make_lesion_json(lesion_study) | {"page": str(page)}
    else:
        study_summary = report.read_study_summary(folder)
        page = report.write_study_report(study_summary, folder)
        facts = report.make_study_results(study_summary) | {"page": str(page)}
    return facts, f"{facts['verdict']}\n\nThe page: {page}"


def keep_lesion_record(folder: Path) -> None:
    """Rename the results.json of a lesion study, which a study's report would overwrite."""
    kept = folder / "lesion-results.json"
    if kept.exists():
        raise UsageError(
            f"{folder} also holds the results.json of a lesion study, and the report of the study "
            "would overwrite that file: move it to another folder"
        )
    (folder / report.LESION_RECORD).rename(kept)
    print_notes([f"{folder / report.LESION_RECORD} of a lesion study is now called {kept.name}"])
