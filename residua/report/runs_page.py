"""The page that compares the runs below a folder, and the texts of its table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from residua.config.image_views import describe_views
from residua.errors import UsageError
from residua.files import write_text
from residua.report.accuracy import format_accuracy
from residua.report.evaluation_page import EVALUATION_PAGE
from residua.report.figures import (
    BASE_COLORS,
    DESKTOP_WIDTH,
    PHONE_WIDTH,
    SERIES_COLORS,
    add_white_background,
    inline_figures,
)
from residua.report.format import (
    NO_VALUE,
    format_counted_noun,
    format_duration,
    make_percent_nonbreaking,
)
from residua.report.html import REPORT_PAGE, make_download, render_template
from residua.report.listed_runs import ListedRun, SkippedFolder, make_printable
from residua.report.run_settings import list_differing_settings
from residua.report.runs_figure import (
    MAX_DRAWN_RUNS,
    DevCurve,
    read_curves_by_data,
    render_runs_figure,
)
from residua.spreadsheet_cells import format_csv

RUNS_PAGE = "index.html"
PAGE_MARK = '<meta name="generator" content="residua runs">'  # only such a page is replaced
MAX_MARK_POSITION = 4096  # bytes of a page in which the mark is looked for
MAX_LISTED_SKIPPED = 50
FIGURE_TITLES = {"curves": "Dev error over epochs"}  # for screen readers


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
            f"{page} was not written by the command residua runs, so it is not replaced: "
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
    best_runs = choose_best_runs(runs)
    svgs = render_figure_svgs(curves_by_data)
    rows = [make_run_row(run, numbers[id(run)], page_folder) for run in runs]
    return render_template(
        "runs.html.j2",
        title=f"Runs in {make_printable(folder.resolve().name)}",
        subject=describe_run_counts(runs),
        best_rows=[make_best_row(best, numbers, page_folder) for best in best_runs],
        **describe_first_best_run(best_runs, numbers),
        figures=inline_figures({"curves": svgs}, FIGURE_TITLES, colors)["curves"] if svgs else [],
        downloads=[make_download("curves.svg", add_white_background(svgs[0]))] if svgs else [],
        table_downloads=[make_download("runs.csv", format_runs_csv(rows))],
        drawn=max((len(curves) for curves in curves_by_data.values()), default=0),
        max_drawn=MAX_DRAWN_RUNS,
        inks=colors,
        rows=rows,
        differing=differing,
        setting_rows=[make_setting_row(run, numbers[id(run)], differing) for run in runs],
        skipped=skipped[:MAX_LISTED_SKIPPED],
        more_skipped=max(0, len(skipped) - MAX_LISTED_SKIPPED),
    )


def number_runs(runs: Sequence[ListedRun]) -> dict[int, ListedRun]:
    """Number the runs from 1 in the order of time."""
    return dict(enumerate(sorted(runs, key=lambda run: (run.modified, run.name)), 1))


def render_figure_svgs(curves_by_data: dict[str, list[DevCurve]]) -> list[str]:
    """Render the figure for a wide and for a narrow screen; [] if no run has a curve."""
    if not curves_by_data:
        return []
    return [render_runs_figure(curves_by_data, width) for width in (DESKTOP_WIDTH, PHONE_WIDTH)]


def format_runs_csv(rows: Sequence[Sequence[TableCell]]) -> str:
    """Format the table of runs as CSV: shares of right images in [0, 1], times in seconds."""
    names = ("no.", "run", "dev right", "test right", "seconds", "data", "model", "recipe", "state")
    return format_csv([names, *(tuple(cell.key for cell in row) for row in rows)])


def describe_run_counts(runs: Sequence[ListedRun]) -> str:
    """Describe how many runs there are, by state: `12 runs: 10 finished, 2 unfinished`."""
    states = [run.state for run in runs]
    counts = [f"{states.count(state):,} {state}" for state in dict.fromkeys(sorted(states))]
    return f"{format_counted_noun(len(runs), 'run')}: {', '.join(counts)}"


class BestRun(NamedTuple):
    """The finished run with the lowest dev error on a data set, and the number of finished runs."""

    run: ListedRun
    rivals: int


def choose_best_runs(runs: Sequence[ListedRun]) -> list[BestRun]:
    """Choose each data set's finished run with the lowest dev error, most runs first.

    The run is not chosen by its test error, which would then look too low.
    """
    finished = [run for run in runs if run.state == "finished" and run.dev_error is not None]
    data_names = [run.data for run in finished]
    return [
        BestRun(
            min(
                (run for run in finished if run.data == data),
                key=lambda run: (run.dev_error or 0.0, -run.modified),
            ),
            data_names.count(data),
        )
        for data in sorted(set(data_names), key=lambda name: (-data_names.count(name), name))
    ]


def describe_first_best_run(
    best_runs: Sequence[BestRun], numbers: dict[int, int]
) -> dict[str, str]:
    """Return, by name, the number at the top of the page, its label, and a sentence on the run."""
    if not best_runs:
        return {"number": "", "label": "", "lead": "No run is finished yet."}
    run, rivals = best_runs[0]
    accuracy, interval = format_accuracy_and_interval(run.test_error, run.test_images)
    label = f"of the test images of {run.data} right{describe_views(run.test_views)}"
    rank = "is the only finished run"
    if rivals > 1:
        rank = f"has the lowest dev error of {format_counted_noun(rivals, 'finished run')}"
    return {
        "number": "" if run.test_error is None else make_percent_nonbreaking(f"{accuracy} %"),
        "label": make_percent_nonbreaking(f"{label}, 95 % CI {interval} %" if interval else label),
        "lead": f"Run {numbers[id(run)]}, {run.model}, {rank} on {run.data}.",
    }


def make_best_row(
    best: BestRun, numbers: dict[int, int], page_folder: Path
) -> tuple[str, str, str, str, str]:
    """Make a row of the best runs: data, number of runs, the run and its link, test right."""
    run = best.run
    accuracy, interval = format_accuracy_and_interval(run.test_error, run.test_images)
    return (
        run.data,
        f"{best.rivals:,}",
        f"{numbers[id(run)]}, {run.model}",
        find_report_link(run, page_folder),
        (f"{accuracy} ({interval})" if interval else accuracy) + describe_views(run.test_views),
    )


def format_accuracy_and_interval(error: float | None, count: int | None) -> tuple[str, str]:
    """Format the share of right predictions in percent, and its 95 % interval: `98.1`, `96.1–99.1`.

    The interval is "" if the number of images is unknown.
    """
    if error is None:
        return NO_VALUE, ""
    right, low, high = format_accuracy(error, count)
    return right, f"{low}–{high}" if low else ""


def format_run_state(run: ListedRun) -> str:
    """Format the state of a run, with its damage, or the last step if it is not finished."""
    if run.state == "finished":
        return f"{run.state}, but damaged" if run.damage else run.state
    if run.step is None:
        return f"{run.state}, nothing measured yet"
    total = f" of {run.total_steps:,}" if run.total_steps else ""
    return f"{run.state}, step {run.step:,}{total}"


def make_run_row(run: ListedRun, number: int, page_folder: Path) -> list[TableCell]:
    """Make a row of the table: number, run, dev, test, time, data, model, recipe, state."""
    return [
        TableCell(str(number), number),
        TableCell(run.name, run.name, link=find_report_link(run, page_folder)),
        make_accuracy_cell(run.dev_error, run.dev_images),
        make_accuracy_cell(run.test_error, run.test_images, run.test_views),
        TableCell(
            NO_VALUE if run.seconds is None else format_duration(run.seconds),
            "" if run.seconds is None else run.seconds,
        ),
        TableCell(run.data, run.data),
        TableCell(run.model, run.model),
        TableCell(run.recipe or NO_VALUE, run.recipe),
        TableCell(format_run_state(run), format_run_state(run)),
    ]


def make_accuracy_cell(error: float | None, count: int | None, views: str = "") -> TableCell:
    accuracy, interval = format_accuracy_and_interval(error, count)
    note = f"{interval}{describe_views(views)}".strip()
    return TableCell(accuracy, "" if error is None else 1 - error, note)


def make_setting_row(run: ListedRun, number: int, differing: Sequence[str]) -> list[TableCell]:
    """Make a row of the table of differences: number, run, and one cell per setting."""
    texts = [run.settings.get(name, "") for name in differing]
    return [
        TableCell(str(number), number),
        TableCell(run.name, run.name),
        *(TableCell(text or NO_VALUE, make_sort_key(text)) for text in texts),
    ]


def make_sort_key(text: str) -> float | str:
    """Turn a text into its number, so that 10 sorts after 9; keep a text that is no number."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if abs(number) < 1e300 else text  # not nan, not inf


def find_report_link(run: ListedRun, page_folder: Path) -> str:
    """Find the URL of the report of a run or its study, relative to the page; "" if there is none.

    The page of an evaluation is taken if there is no report, as for VLAD.
    """
    for page in (REPORT_PAGE, f"evaluation/{EVALUATION_PAGE}"):
        path = run.record.folder / page
        if path.exists():
            return quote(os.fsencode(os.path.relpath(path, page_folder)))
    return ""
