"""The report of a study: verdict, figures, table and method in one self-contained page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from residua.config.serialize import FORMAT_VERSION, Json
from residua.files import render_json, write_text_files
from residua.report.block_drawing import CAPTION_SHIFT, draw_study_blocks
from residua.report.cross_validation import (
    FOLD_CAVEAT,
    describe_cross_validation,
    fold_results_to_json,
    make_fold_table,
)
from residua.report.depth_figures import MAX_OVERLAID_ARMS
from residua.report.figures import inline_figures, make_figure_files, map_figure_colors_to_dark
from residua.report.format import (
    NO_VALUE,
    capitalize_first,
    format_counted_noun,
    format_duration,
    format_percent,
    format_percent_number,
    format_percent_number_with_sd,
    format_two_seed_range,
    join_with_and,
    make_percent_nonbreaking,
)
from residua.report.html import (
    REPORT_PAGE,
    make_download,
    make_figure_downloads,
    render_template,
)
from residua.report.method import describe_method, format_dataset_name
from residua.report.recorded_run import UnfinishedRun
from residua.report.runs import DamagedRun, StudyRuns, read_study_runs
from residua.report.significance import (
    format_arm_name,
    format_learning_start,
    get_cell_measure,
    group_cells_by_arm,
    is_at_chance,
)
from residua.report.study_figures import STUDY_FIGURE_TITLES, render_study_figures
from residua.report.study_findings import (
    HeadlineNumber,
    choose_headline_number,
    make_findings_table,
    shorten_answer,
)
from residua.report.tables import (
    StudyCell,
    average_runs_over_seeds,
    ci_half_width,
    compute_learned_error,
)
from residua.report.verdict import describe_study_verdict
from residua.spreadsheet_cells import format_csv

MAX_NAMED_ARMS = 4  # in the line below the title


@dataclass(frozen=True, slots=True)
class StudySummary:
    """The runs of a study, or a single run, with the averages and findings derived from them."""

    runs: StudyRuns
    cells: tuple[StudyCell, ...]  # averages over seeds, by arm and depth
    findings: tuple[str, ...]  # of the verdict; the answer comes first

    @property
    def num_classes(self) -> int:
        return self.runs.finished[0].num_classes

    def __repr__(self) -> str:
        count = len(self.runs.finished)
        return f"StudySummary({count} run{'s' * (count != 1)}: {self.findings[0]})"


def read_study_summary(folder: Path) -> StudySummary:
    """Read the runs in a study's or a run's folder, and derive their averages and findings.

    Raises RecordError if no run is finished, or if the runs cannot be compared.
    """
    runs = read_study_runs(folder)
    cells = average_runs_over_seeds(runs)
    findings = describe_cross_validation(cells, runs.finished)
    findings += describe_study_verdict(cells, runs.finished[0].num_classes)
    return StudySummary(runs, tuple(cells), tuple(findings))


def write_study_report(summary: StudySummary, folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/`; return the page's path."""
    figure_svgs = render_study_figures(summary.runs.finished, summary.cells)
    figures = make_figure_files(figure_svgs)
    files: dict[str, Json] = {"page": REPORT_PAGE, "figures": list(figures)}
    results = render_json(make_study_results(summary) | files)
    page = render_study_page(summary, figure_svgs, results)
    write_text_files(folder, figures | {"results.json": results, REPORT_PAGE: page})
    return folder / REPORT_PAGE


def make_study_results(summary: StudySummary) -> dict[str, Json]:
    """Make the results of a study as a dict for `results.json`.

    `cells` hold errors in [0, 1].  `verdict` has one finding per line.  `unfinished` and `damaged`
    list the runs that are not part of any cell.
    """
    runs = summary.runs
    first_run, study = runs.finished[0], runs.study
    recipe_name = study.recipe.name if study else first_run.recipe.get("name", "")
    return {
        "format": FORMAT_VERSION,
        **({"question": study.question} if study and study.question else {}),
        "dataset": first_run.dataset,
        "recipe": str(recipe_name),
        "verdict": "\n".join(summary.findings),
        "cells": [cell.json for cell in summary.cells],
        **fold_results_to_json(runs.finished),
        "unfinished": [asdict(run) for run in runs.unfinished],
        "damaged": [asdict(run) for run in runs.damaged],
    }


def render_study_page(
    summary: StudySummary, figure_svgs: dict[str, tuple[str, str]], results: str
) -> str:
    """Render the study's page as HTML, with style and figures embedded; it loads no other file.

    `results` is the content of `results.json`, which the page also holds.
    """
    runs, cells = summary.runs, summary.cells
    findings = map(make_percent_nonbreaking, summary.findings[1:])
    colors = map_figure_colors_to_dark(len({cell.depth for cell in cells}))
    return render_template(
        "study.html.j2",
        title=make_title_question(summary),
        subject=make_study_subtitle(cells, format_dataset_name(runs.finished[0].dataset)),
        headline=HeadlineNumber(
            *map(make_percent_nonbreaking, choose_headline_number(cells, summary.num_classes))
        ),
        answer=make_percent_nonbreaking(
            shorten_answer(cells, summary.findings[0], summary.num_classes)
        ),
        blocks=draw_study_blocks(runs.finished),
        caption_shift=f"{CAPTION_SHIFT:.3g}",
        table=make_findings_table(cells, summary.num_classes),
        fold_table=make_fold_table(cells, runs.finished),
        fold_caveat=capitalize_first(FOLD_CAVEAT.removeprefix("Cross-validation: ")),
        findings=[split_finding_heading(finding, cells) for finding in findings],
        figures=inline_figures(figure_svgs, STUDY_FIGURE_TITLES, colors),
        inks=colors,
        max_overlaid_arms=MAX_OVERLAID_ARMS,
        figure_downloads=make_figure_downloads(figure_svgs),
        number_downloads=[
            make_download("results.json", results),
            make_download("results.csv", format_cells_csv(cells)),
        ],
        missing_runs=[
            *map(describe_unfinished_run, runs.unfinished),
            *map(describe_damaged_run, runs.damaged),
        ],
        **collect_measurement_texts(summary),
    )


def collect_measurement_texts(summary: StudySummary) -> dict[str, object]:
    """Collect the page's table of numbers and the texts on how they were measured, by name."""
    cells = summary.cells
    learned_below = format_percent(compute_learned_error(summary.num_classes), digits=0)
    method = describe_method(summary.runs)
    return {
        "rows_by_arm": {
            capitalize_first(format_arm_name(arm)): [
                make_cell_row(cell, summary.num_classes) for cell in arm_cells
            ]
            for arm, arm_cells in group_cells_by_arm(cells).items()
        },
        "learned_below": make_percent_nonbreaking(learned_below),
        "measured_every": max((cell.measured_every or 0 for cell in cells), default=0),
        "has_reestimated": any(cell.train_error_reestimated is not None for cell in cells),
        "has_bounds": any(cell.learned_seeds != cell.seeds for cell in cells),
        "has_spread": any(cell.seeds > 1 for cell in cells),
        "has_pairs": any(cell.seeds == 2 for cell in cells),
        "has_samples": any(cell.seeds > 2 for cell in cells),
        "method": {part: make_percent_nonbreaking(text) for part, text in method.items()},
    }


def format_cells_csv(cells: Sequence[StudyCell]) -> str:
    """Format the averages over seeds as CSV: a row per arm and depth, keys as in `results.json`."""
    contents = [cell.json for cell in cells]
    return format_csv([tuple(contents[0]), *(tuple(content.values()) for content in contents)])


def make_title_question(summary: StudySummary) -> str:
    """Make the page's title: the study's question, or a general one if the study has none."""
    study = summary.runs.study
    if study and study.question:
        return study.question
    if len(summary.cells) > 1:
        return "Do deeper networks train?"
    return f"How well does {summary.runs.finished[0].name} train?"


def make_study_subtitle(cells: Sequence[StudyCell], dataset_name: str) -> str:
    """Name families, depths, data and steps.

    For example `Plain and residual nets of 20 and 56 layers on cifar10, after 2,000 steps`; the
    steps are left out if they differ between the nets.
    """
    names = [format_arm_name(arm) for arm in dict.fromkeys(cell.arm for cell in cells)]
    arms = join_with_and(names) if len(names) <= MAX_NAMED_ARMS else f"{len(names)} kinds of"
    depths = join_with_and([f"{depth:,}" for depth in sorted({cell.depth for cell in cells})])
    steps = {cell.steps for cell in cells}
    only_steps = steps.pop() if len(steps) == 1 else None
    after = f", after {format_counted_noun(only_steps, 'step')}" if only_steps else ""
    return f"{capitalize_first(arms)} nets of {depths} layers on {dataset_name}{after}"


def make_cell_row(cell: StudyCell, num_classes: int) -> list[tuple[str, str]]:
    """Make a cell's row in the page's table: (text, small text below it) for each column.

    The columns are: depth; training, dev and test error (%); gap (points); steps until learning
    starts; seeds; parameters; time.
    """
    means_and_sds = [
        (cell.comparable_train_error, cell.comparable_train_error_sd),
        (cell.dev_error, cell.dev_error_sd),
        (cell.test_error, cell.test_error_sd),
        (get_cell_measure(cell, "gap"), cell.generalisation_gap_sd),
    ]
    return [
        (f"{cell.depth:,}", "at chance" if is_at_chance(cell, num_classes) else ""),
        *(format_mean_and_spread(mean, sd, cell.seeds) for mean, sd in means_and_sds),
        (format_learning_start(cell), ""),
        (str(cell.seeds), ""),
        (f"{cell.parameters:,}" if cell.parameters is not None else NO_VALUE, ""),
        (format_duration(cell.seconds or 0), ""),
    ]


def format_mean_and_spread(mean: float | None, sd: float | None, seeds: int) -> tuple[str, str]:
    """Format a mean in percent, and the small text below it; `mean` and `sd` are in [0, 1].

    Two seeds give their values, (`2.6`, `2.0 to 3.2`); more give the sd and half the width of the
    95 % confidence interval, (`2.6 ± 0.6`, `CI ± 1.5`).  A mean that is None has a dash.
    """
    half_width = ci_half_width(sd, seeds)
    if mean is None:
        return NO_VALUE, ""
    if sd is None or half_width is None:
        return format_percent_number(mean), ""
    if seeds == 2:
        return format_percent_number(mean), format_two_seed_range(mean, sd)
    return format_percent_number_with_sd(mean, sd), f"CI ± {format_percent_number(half_width)}"


def describe_unfinished_run(run: UnfinishedRun) -> str:
    arm_text = f" ({format_arm_name(run.arm)})" if run.arm and run.arm not in run.name else ""
    state = "nothing measured yet" if run.step is None else f"measured up to step {run.step:,}"
    fold = f", fold {run.fold}" if run.fold else ""
    return f"{run.name}, seed {run.seed}{fold}{arm_text}: {state}"


def describe_damaged_run(run: DamagedRun) -> str:
    return f"{run.folder}: skipped, because its {run.why}"


def split_finding_heading(finding: str, cells: Sequence[StudyCell]) -> tuple[str, str]:
    """Split a finding into heading and text: `Plain: error rises` into ("Plain", "Error rises").

    If the finding has no heading, the result is ("", finding).
    """
    arm_names = [capitalize_first(format_arm_name(cell.arm)) for cell in cells]
    for subject in ("Slow start", "Over-fitting", "Cross-validation", *arm_names):
        if finding.startswith(f"{subject}: "):
            return subject, capitalize_first(finding.removeprefix(f"{subject}: "))
    return "", finding
