"""The report of a single run: accuracy, curves, over-fitting and worst mistakes in one page."""

import re
from dataclasses import dataclass
from pathlib import Path

from residua.config.evaluation_results import EvaluationResult
from residua.config.serialize import Json
from residua.errors import ResiduaError
from residua.files import render_json, write_text_files
from residua.report.evaluation_page import (
    EVALUATION_PAGE,
    EVALUATION_RECORD,
    read_evaluation,
)
from residua.report.evaluation_tables import list_pictured_images
from residua.report.figures import (
    DESKTOP_WIDTH,
    PHONE_WIDTH,
    inline_figures,
    make_figure_files,
)
from residua.report.format import (
    format_counted_noun,
    format_duration,
    format_percent,
    make_percent_nonbreaking,
    quote_path,
)
from residua.report.html import (
    REPORT_PAGE,
    make_download,
    make_figure_downloads,
    render_template,
)
from residua.report.method import describe_method, format_dataset_name
from residua.report.recorded_run import FinishedRun
from residua.report.run_curves import RUN_CURVE_COLORS, render_run_curves
from residua.report.run_summary import (
    describe_late_training,
    describe_over_fitting,
    describe_run_errors,
    describe_test_accuracy,
    list_error_rows,
)
from residua.report.study import StudySummary, make_study_results

EVALUATION_FOLDER = "evaluation"  # in the folder of a run
MAX_RUN_MISTAKES = 8  # on the page of a run; its evaluation shows more


@dataclass(frozen=True, slots=True)
class RunFindings:
    """What is said of a run, on its page and on a terminal."""

    number: str  # the share of test images that are right, in percent
    label: str  # what the number counts
    over_fitting: str
    late_training: str  # "" if the dev loss did not rise

    @property
    def text(self) -> str:
        """The findings as lines, as `residua report` prints them."""
        lines = [f"{self.number} {self.label}.", self.over_fitting, self.late_training]
        return "\n".join(filter(None, lines))


def describe_run(run: FinishedRun) -> RunFindings:
    """Describe the accuracy of a run, and whether it over-fits."""
    number, label = describe_test_accuracy(run)
    return RunFindings(number, label, describe_over_fitting(run), describe_late_training(run))


def make_run_results(summary: StudySummary) -> dict[str, Json]:
    """Make the content of `results.json` of a single run: as that of a study, with one cell."""
    [run] = summary.runs.finished
    return make_study_results(summary) | {"verdict": describe_run(run).text}


def write_run_report(summary: StudySummary, folder: Path) -> Path:
    """Write the page of a single run, `results.json` and `figures/`; return the page's path.

    The page shows the mistakes of the run's evaluation, if `folder` has one.
    """
    [run] = summary.runs.finished
    svgs = {}
    if run.metric_lines:
        svgs["curves"] = (
            render_run_curves(run, DESKTOP_WIDTH),
            render_run_curves(run, PHONE_WIDTH),
        )
    figures = make_figure_files(svgs)
    results = make_run_results(summary) | {"page": REPORT_PAGE, "figures": list(figures)}
    page = render_run_page(summary, svgs, folder)
    write_text_files(folder, figures | {"results.json": render_json(results), REPORT_PAGE: page})
    return folder / REPORT_PAGE


def render_run_page(
    summary: StudySummary, figure_svgs: dict[str, tuple[str, str]], folder: Path
) -> str:
    """Render the page of a run as HTML, with style, figures and thumbnails embedded."""
    [run] = summary.runs.finished
    findings, evaluation = describe_run(run), read_test_evaluation(folder, run)
    shown_count = min(MAX_RUN_MISTAKES, len(evaluation.mistakes)) if evaluation else 0
    results = render_json(make_run_results(summary))
    return render_template(
        "run.html.j2",
        title=f"{run.name} on {format_dataset_name(run.dataset)}",
        subject=describe_run_size(run),
        number=make_percent_nonbreaking(findings.number),
        label=make_percent_nonbreaking(findings.label),
        over_fitting=make_percent_nonbreaking(findings.over_fitting),
        late_training=make_percent_nonbreaking(findings.late_training),
        error_rows=list_error_rows(run),
        figures=inline_figures(figure_svgs, {"curves": describe_curves(run)}, RUN_CURVE_COLORS),
        inks=RUN_CURVE_COLORS,
        files=[
            *make_figure_downloads(figure_svgs).values(),
            make_download("results.json", results),
        ],
        mistakes=list_pictured_images(evaluation)[:shown_count] if evaluation else [],
        mistake_count=evaluation.wrong if evaluation else 0,
        evaluation_page=f"{EVALUATION_FOLDER}/{EVALUATION_PAGE}" if evaluation else "",
        command_text=suggest_evaluation(run, folder),
        method={
            part: make_percent_nonbreaking(text)
            for part, text in describe_method(summary.runs).items()
            if part != "Errors"
        }
        | {"Errors": make_percent_nonbreaking(describe_run_errors(run))},
    )


def read_test_evaluation(folder: Path, run: FinishedRun) -> EvaluationResult | None:
    """Read the evaluation in the folder of a run; None if there is none that can be read.

    The result is also None if another split, or another data set than the run's, was evaluated.
    """
    if not (folder / EVALUATION_FOLDER / EVALUATION_RECORD).exists():
        return None
    try:
        evaluation = read_evaluation(folder / EVALUATION_FOLDER)
    except ResiduaError:
        return None
    # An evaluation names photographs after their folder or table, with `-` for all characters but
    # letters, digits and `-_.`; a run has the whole path.
    path = Path(run.dataset)
    names = {run.dataset} | {re.sub(r"[^\w.-]", "-", name) for name in (path.name, path.stem)}
    is_of_test_images = evaluation.split == "test" and evaluation.dataset in names
    return evaluation if is_of_test_images else None


def describe_run_size(run: FinishedRun) -> str:
    """Describe a run's size: `20 layers, 269,722 parameters, 1,000 steps, 3 min, seed 0`."""
    result = run.result
    parameters = "" if run.parameters is None else f"{run.parameters:,} parameters"
    parts = [
        f"{run.depth:,} layers",
        parameters,
        format_counted_noun(result.steps, "step"),
        format_duration(result.seconds),
        f"seed {run.seed}",
    ]
    return ", ".join(filter(None, parts))


def describe_curves(run: FinishedRun) -> str:
    """Describe the figure of a run in words, for screen readers."""
    dev_error, test_error = run.result.dev_error, format_percent(run.result.test_error)
    if dev_error is None:
        return (
            f"Training error, loss and learning rate of {run.name} over training; at the end the "
            f"test error is {test_error}"
        )
    return (
        f"Training and dev error, loss and learning rate of {run.name} over training; at the end "
        f"the dev error is {format_percent(dev_error)} and the test error {test_error}"
    )


def suggest_evaluation(run: FinishedRun, folder: Path) -> str:
    """Suggest the command that evaluates a run, with its paths, quoted for a shell."""
    run_folder, out = quote_path(folder), quote_path(folder / EVALUATION_FOLDER)
    return f"residua evaluate {run_folder} {quote_path(run.dataset)} --out {out}"
