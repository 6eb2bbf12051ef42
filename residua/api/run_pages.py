"""The pages of a finished run, which `residua train` and `residua.train` write."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from residua import report, training
from residua.config.dataset import Dataset
from residua.config.serialize import Json
from residua.console.output import print_note
from residua.errors import ResiduaError, describe_os_error
from residua.record import RunRecord
from residua.report.evaluation_page import EVALUATION_PAGE
from residua.report.html import REPORT_PAGE
from residua.report.run_page import EVALUATION_FOLDER

if TYPE_CHECKING:
    from torch import nn


def describe_exception(error: Exception) -> str:
    """Describe an error that residua did not foresee in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def write_run_pages(
    folder: Path,
    dataset: Dataset,
    machine: "training.Machine",
    data_dir: Path | None,
    *,
    was_finished: bool,
    module: "nn.Module | None" = None,
    describe_unexpected: Callable[[Exception], str] = describe_exception,
) -> dict[str, Json]:
    """Write the report and the evaluation of the finished run in `folder`.

    Returns the paths of the two pages, or None for a page that could not be written; a note then
    says why, and no error is raised.  VLAD has no report, because it is not trained in steps, and a
    module of the user's own has none, because it belongs to no family of networks.
    Pages of a run that `was_finished` before are written only if they are missing.  `module` is
    the trained network if it is a module of the user's own.
    """
    report_page = folder / REPORT_PAGE
    evaluation_page = folder / EVALUATION_FOLDER / EVALUATION_PAGE

    def write_report() -> None:
        report.write_run_report(report.read_study_summary(folder), folder)

    def write_evaluation() -> None:
        evaluation = training.evaluate_finished_run(folder, dataset, machine, data_dir, module)
        report.write_evaluation_report(evaluation, evaluation_page.parent)

    has_evaluation = (was_finished and evaluation_page.exists()) or write_or_explain(
        write_evaluation, f"the evaluation of the run in {folder}", describe_unexpected
    )
    has_report = (was_finished and report_page.exists()) or (  # which shows mistakes of the first
        module is None
        and RunRecord(folder).read_run().recipe is not None
        and write_or_explain(
            write_report, f"the report of the run in {folder}", describe_unexpected
        )
    )
    return {
        "page": str(report_page) if has_report else None,
        "evaluation_page": str(evaluation_page) if has_evaluation else None,
    }


def write_or_explain(
    write: Callable[[], None], what: str, describe_unexpected: Callable[[Exception], str]
) -> bool:
    """Call `write` and return True; if it fails or is interrupted, print a note and return False.

    By then the run is finished and stored, so a failure here must not end the program.
    """
    try:
        write()
    except KeyboardInterrupt:
        reason = "it was interrupted"
    except ResiduaError as error:
        reason = str(error)
    except OSError as error:
        reason = describe_os_error(error)
    except Exception as error:
        reason = describe_unexpected(error)
    else:
        return True
    print_note(f"{what} was not written (the run itself is complete): {reason}")
    return False
