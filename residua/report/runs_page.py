"""The page that compares the runs below a folder, and the texts of its table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from residua.config.evaluation_results import wilson_interval
from residua.errors import UsageError
from residua.files import write_text
from residua.report.evaluation_page import EVALUATION_PAGE
from residua.report.figures import (
    BASE_COLORS,
    DESKTOP_WIDTH,
    PHONE_WIDTH,
    SERIES_COLORS,
    inline_figures,
)
from residua.report.format import (
    NO_VALUE,
    PRECISE_IMAGE_COUNT,
    format_counted_noun,
    format_duration,
    format_percent_number,
    make_percent_nonbreaking,
)
from residua.report.html import REPORT_PAGE, render_template
from residua.report.listed_runs import ListedRun, SkippedFolder, make_printable
from residua.report.run_settings import list_differing_settings
from residua.report.runs_figure import (
    MAX_DRAWN_RUNS,
    DevCurve,
    read_curves_by_data,
    render_runs_figure,
)

RUNS_PAGE = "index.html"
PAGE_MARK = '<meta name="generator" content="residua runs">'  # only such a page is replaced
MAX_MARK_POSITION = 4096  # bytes of a page in which the mark is looked for
MAX_LISTED_SKIPPED = 50


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell of a table that can be sorted; `key` is a number, a text, or "" if there is none."""

    text: str
    key: float | str
    small: str = ""  # below the text
    link: str = ""


def write_runs_page(
    runs: Sequence[ListedRun], skipped: Sequence[SkippedFolder], folder: Path, page: Path
) -> Path:
    """Write the page that compares `runs`, in their order, to `page`, and return its path.

    The runs are numbered in the order of time.  Raises UsageError if `page` exists and was not
    written by this function.
    """
    if page.exists() and not is_runs_page(page):
        raise UsageError(
            f"{page} is not a page of residua runs, so it is not replaced: "
            "give another place with --out, or add --no-page"
        )
    write_text(page, render_runs_page(runs, skipped, folder, page.parent))
    return page


def is_runs_page(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return PAGE_MARK.encode() in file.read(MAX_MARK_POSITION)


def render_runs_page(
    runs: Sequence[ListedRun],
    skipped: Sequence[SkippedFolder],
    folder: Path,
    page_folder: Path,
) -> str:
    """Render the page as HTML, with style, figure and script embedded; it loads no other file."""
    numbered = number_runs(runs)
    numbers = {id(run): number for number, run in numbered.items()}
    curves_by_data = read_curves_by_data(numbered)
    differing = list_differing_settings([run.settings for run in runs])
    colors = BASE_COLORS | SERIES_COLORS
    lead, *findings = map(make_percent_nonbreaking, describe_best_runs(runs, numbers))
    return render_template(
        "runs.html.j2",
        title=f"Runs in {make_printable(folder.resolve().name)}",
        subject=describe_run_counts(runs),
        lead=lead,
        findings=findings,
        figures=make_runs_figure(curves_by_data, colors),
        drawn=max((len(curves) for curves in curves_by_data.values()), default=0),
        max_drawn=MAX_DRAWN_RUNS,
        inks=colors,
        rows=[make_run_row(run, numbers[id(run)], page_folder) for run in runs],
        differing=differing,
        setting_rows=[make_setting_row(run, numbers[id(run)], differing) for run in runs],
        skipped=skipped[:MAX_LISTED_SKIPPED],
        more_skipped=max(0, len(skipped) - MAX_LISTED_SKIPPED),
    )


def number_runs(runs: Sequence[ListedRun]) -> dict[int, ListedRun]:
    """The runs by their number, from 1, in the order of time."""
    return dict(enumerate(sorted(runs, key=lambda run: (run.modified, run.name)), 1))


def make_runs_figure(
    curves_by_data: dict[str, list[DevCurve]], colors: dict[str, str]
) -> list[str]:
    """The figure for a wide and for a narrow screen; [] if no run has a curve."""
    if not curves_by_data:
        return []
    svgs = [render_runs_figure(curves_by_data, width) for width in (DESKTOP_WIDTH, PHONE_WIDTH)]
    return inline_figures({"curves": svgs}, {"curves": "Dev error over epochs"}, colors)["curves"]


def describe_run_counts(runs: Sequence[ListedRun]) -> str:
    """How many runs there are, by state: `12 runs: 10 finished, 2 unfinished`."""
    states = [run.state for run in runs]
    counts = [f"{states.count(state):,} {state}" for state in dict.fromkeys(sorted(states))]
    return f"{format_counted_noun(len(runs), 'run')}: {', '.join(counts)}"


def describe_best_runs(runs: Sequence[ListedRun], numbers: dict[int, int]) -> list[str]:
    """A sentence for each data set on its finished run with the lowest dev error, most runs first.

    The run is not chosen by its test error, which would then be too good.
    """
    finished = [run for run in runs if run.state == "finished" and run.dev_error is not None]
    data_names = [run.data for run in finished]
    sentences = []
    for data in sorted(set(data_names), key=lambda name: (-data_names.count(name), name)):
        rivals = [run for run in finished if run.data == data]
        best = min(rivals, key=lambda run: (run.dev_error or 0.0, -run.modified))
        accuracy, interval = format_accuracy(best.test_error, best.test_images)
        details = f" (95 % CI {interval} %)" if interval else ""
        sentences.append(
            f"Lowest dev error on {data} of {format_counted_noun(len(rivals), 'finished run')}: "
            f"{best.model}, run {numbers[id(best)]}, with {accuracy} % of the test images "
            f"right{details}."
        )
    return sentences or ["No run is finished yet."]


def format_accuracy(error: float | None, count: int | None) -> tuple[str, str]:
    """The share of right predictions in percent, and its 95 % interval: `98.1`, `96.1–99.1`.

    The interval is "" if the number of images is unknown.
    """
    if error is None:
        return NO_VALUE, ""
    digits = 2 if count and count >= PRECISE_IMAGE_COUNT else 1
    right = format_percent_number(1 - error, digits)
    if not count or count < 0:
        return right, ""
    low, high = wilson_interval(count - round(error * count), count)
    limits = (format_percent_number(limit, digits) for limit in (low, high))
    return right, NO_VALUE.join(limits)


def format_run_state(run: ListedRun) -> str:
    """The state of a run, with the last measured step if it is not finished."""
    if run.state == "finished":
        return run.state
    if run.step is None:
        return f"{run.state}, nothing measured yet"
    total = f" of {run.total_steps:,}" if run.total_steps else ""
    return f"{run.state}, step {run.step:,}{total}"


def make_run_row(run: ListedRun, number: int, page_folder: Path) -> list[TableCell]:
    """A row of the table: number, run, dev, test, time, data, model, recipe, state."""
    return [
        TableCell(str(number), number),
        TableCell(run.name, run.name, link=find_report_link(run, page_folder)),
        make_accuracy_cell(run.dev_error, run.dev_images),
        make_accuracy_cell(run.test_error, run.test_images),
        TableCell(
            NO_VALUE if run.seconds is None else format_duration(run.seconds),
            "" if run.seconds is None else run.seconds,
        ),
        TableCell(run.data, run.data),
        TableCell(run.model, run.model),
        TableCell(run.recipe or NO_VALUE, run.recipe),
        TableCell(format_run_state(run), format_run_state(run)),
    ]


def make_accuracy_cell(error: float | None, count: int | None) -> TableCell:
    accuracy, interval = format_accuracy(error, count)
    return TableCell(accuracy, "" if error is None else 1 - error, interval)


def make_setting_row(run: ListedRun, number: int, differing: Sequence[str]) -> list[TableCell]:
    """A row of the table of differences: number, run, and one cell per setting."""
    texts = [run.settings.get(name, "") for name in differing]
    return [
        TableCell(str(number), number),
        TableCell(run.name, run.name),
        *(TableCell(text or NO_VALUE, make_sort_key(text)) for text in texts),
    ]


def make_sort_key(text: str) -> float | str:
    """The number that a text is, so that 10 follows 9; any other text itself."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if abs(number) < 1e300 else text  # not nan, not inf


def find_report_link(run: ListedRun, page_folder: Path) -> str:
    """The address of the report of a run or its study, relative to the page; "" if there is none.

    The page of an evaluation is taken if there is no report, as for VLAD.
    """
    for page in (REPORT_PAGE, f"evaluation/{EVALUATION_PAGE}"):
        path = run.record.folder / page
        if path.exists():
            return quote(os.fsencode(os.path.relpath(path, page_folder)))
    return ""
