"""The page of a study: the answer in words, the figures, the table, and how it was measured, in one self-contained file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from residua.config.serialize import FORMAT_VERSION, Json
from residua.files import write_json, write_text
from residua.report import figures
from residua.report.html import render_template
from residua.report.method import describe_method, format_dataset_name
from residua.report.runs import DamagedRun, StudyRuns, UnfinishedRun, read_study_runs
from residua.report.significance import (
    capitalize_first,
    format_arm_name,
    format_cell_measure,
    get_cell_measure,
    group_cells_by_arm,
    is_at_chance,
    join_with_and,
)
from residua.report.study_figures import render_study_figures
from residua.report.tables import (
    LEARNED_CHANCE_SHARE,
    StudyCell,
    average_runs_over_seeds,
    ci_half_width,
)
from residua.report.verdict import describe_study_verdict

STUDY_PAGE = "report.html"
STUDY_FIGURE_TITLES = {
    "depth": "Training and test error against depth",
    "arms": "Training and test error of each net",
    "start": "Steps until a run begins to learn, against depth",
    "curves": "Training and dev error over steps",
}


def collect_study_results(folder: Path) -> dict[str, Json]:
    """A study or a run in numbers: `cells`, errors in [0, 1]; `verdict`, a finding a line; `page`, its path; `unfinished` runs."""
    return make_study_results(read_study_runs(folder)) | {"page": str(folder / STUDY_PAGE)}


def write_study_report(folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/` of a study or a run from its records alone, and return the page's path.

    Raises RecordError where no run is finished.
    """
    runs = read_study_runs(folder)
    figure_svgs = render_study_figures(runs)
    for label, (wide, _) in figure_svgs.items():
        write_text(folder / "figures" / f"{label}.svg", figures.add_white_background(wide))
    write_json(
        folder / "results.json",
        make_study_results(runs)
        | {"page": STUDY_PAGE, "figures": [f"figures/{label}.svg" for label in figure_svgs]},
    )
    write_text(folder / STUDY_PAGE, render_study_page(runs, figure_svgs))
    return folder / STUDY_PAGE


def make_study_results(runs: StudyRuns) -> dict[str, Json]:
    cells = average_runs_over_seeds(runs)
    first_run = runs.finished[0]
    recipe_name = first_run.recipe.get("name", "") if runs.study is None else runs.study.recipe.name
    return {
        "format": FORMAT_VERSION,
        **({"question": runs.study.question} if runs.study and runs.study.question else {}),
        "dataset": first_run.dataset,
        "recipe": str(recipe_name),
        "verdict": "\n".join(describe_study_verdict(cells, first_run.num_classes)),
        "cells": [cell.json for cell in cells],
        "unfinished": [asdict(run) for run in runs.unfinished],
        "damaged": [asdict(run) for run in runs.damaged],
    }


def render_study_page(runs: StudyRuns, figure_svgs: dict[str, tuple[str, str]]) -> str:
    """The page as HTML: style and figures inside, nothing fetched."""
    cells, first_run = average_runs_over_seeds(runs), runs.finished[0]
    lead, *findings = describe_study_verdict(cells, first_run.num_classes)
    colors = figures.make_figure_colors(len({cell.depth for cell in cells}))
    return render_template(
        "report.html.j2",
        title=make_study_title(runs, cells),
        subject=make_study_subtitle(cells, format_dataset_name(first_run.dataset)),
        lead=make_percent_nonbreaking(lead),
        findings=[
            split_finding_heading(make_percent_nonbreaking(finding), cells) for finding in findings
        ],
        arms={
            capitalize_first(format_arm_name(arm)): [
                make_cell_row(cell, first_run.num_classes) for cell in group
            ]
            for arm, group in group_cells_by_arm(cells).items()
        },
        below=make_percent_nonbreaking(
            f"{100 * LEARNED_CHANCE_SHARE * (1 - 1 / first_run.num_classes):.0f} %"
        ),
        every=max((cell.measured_every or 0 for cell in cells), default=0),
        spread=any(cell.seeds > 1 for cell in cells),
        figures=figures.inline_figures(figure_svgs, STUDY_FIGURE_TITLES, colors),
        inks=colors,
        measured={
            part: make_percent_nonbreaking(words) for part, words in describe_method(runs).items()
        },
        unfinished=[
            *map(describe_unfinished_run, runs.unfinished),
            *map(describe_damaged_run, runs.damaged),
        ],
    )


def make_study_title(runs: StudyRuns, cells: Sequence[StudyCell]) -> str:
    if runs.study and runs.study.question:
        return runs.study.question
    return (
        "Do deeper networks train?"
        if len(cells) > 1
        else f"How well does {runs.finished[0].name} train?"
    )


def make_study_subtitle(cells: Sequence[StudyCell], dataset_name: str) -> str:
    arms = join_with_and(
        [format_arm_name(arm) for arm in dict.fromkeys(cell.arm for cell in cells)]
    )
    depths = join_with_and([str(depth) for depth in sorted({cell.depth for cell in cells})])
    return f"{capitalize_first(arms)} nets of {depths} layers on {dataset_name}"


def make_cell_row(cell: StudyCell, num_classes: int) -> list[tuple[str, str]]:
    """A row of the table, each part with what stands small beneath it: depth, errors and gap (%), start, seeds, size, time."""
    gap = (get_cell_measure(cell, "gap"), cell.gap_sd)
    means_and_sds = [
        (cell.comparable_train_error, cell.comparable_train_error_sd),
        (cell.dev_error, cell.dev_error_sd),
        (cell.test_error, cell.test_error_sd),
        gap,
    ]
    learning_start = (
        format_cell_measure(cell, "start").replace("more than ", "> ").replace("over ", "> ")
        if cell.first_learned_step is not None
        else "–"
    )
    return [
        (str(cell.depth), "at chance" if is_at_chance(cell, num_classes) else ""),
        *(
            (format_mean_and_sd(mean, sd), format_half_interval(sd, cell.seeds))
            for mean, sd in means_and_sds
        ),
        (learning_start, ""),
        (str(cell.seeds), ""),
        (f"{cell.parameters:,}" if cell.parameters is not None else "–", ""),
        (format_duration(cell.seconds or 0), ""),
    ]


def format_half_interval(sd: float | None, seeds: int) -> str:
    """Half of the confidence interval in percent, where there is one."""
    half = ci_half_width(sd, seeds)
    return f"CI ± {100 * half:.1f}" if half is not None else ""


def describe_unfinished_run(run: UnfinishedRun) -> str:
    run_title = f"{run.name}, seed {run.seed}" + (
        f" ({format_arm_name(run.arm)})" if run.arm and run.arm not in run.name else ""
    )
    return f"{run_title}: " + (
        f"measured up to step {run.step:,}" if run.step is not None else "nothing measured yet"
    )


def describe_damaged_run(run: DamagedRun) -> str:
    return f"{run.folder}: skipped, for its {run.why}"


def format_mean_and_sd(mean: float, sd: float | None) -> str:
    """A mean in [0, 1], and its sd if any, in percent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def split_finding_heading(finding: str, cells: Sequence[StudyCell]) -> tuple[str, str]:
    """`Plain: ...` as `Plain` and the rest, where a finding is about one arm, or begins with what it is about."""
    for head in (
        "Slow start: ",
        "Over-fitting: ",
        *(f"{capitalize_first(format_arm_name(cell.arm))}: " for cell in cells),
    ):
        if finding.startswith(head):
            return head[:-2], capitalize_first(finding.removeprefix(head))
    return "", finding


def make_percent_nonbreaking(sentence: str) -> str:
    """With no line break between a number and its percent sign."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")
