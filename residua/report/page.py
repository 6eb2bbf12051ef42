"""The page of a study: the answer in words, the figures, the table, and how it was measured, in one self-contained file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from residua.files import write_json, write_text
from residua.report import figures
from residua.report.compare import at_chance, by_arm, capital, listed, name, told, value
from residua.report.html import rendered
from residua.report.method import known_as, measured
from residua.report.runs import Damaged, Runs, Unfinished, read
from residua.report.study_figures import drawn
from residua.report.tables import SET_OUT, Cell, cells, half_width
from residua.report.verdict import verdict
from residua.spec.text import FORMAT, Json

PAGE = "report.html"
TITLES = {
    "depth": "Training and test error against depth",
    "arms": "Training and test error of each net",
    "start": "Steps until a run begins to learn, against depth",
    "curves": "Training and dev error over steps",
}


def results(folder: Path) -> dict[str, Json]:
    """A study or a run in numbers: `cells`, errors in [0, 1]; `verdict`, a finding a line; `page`, its path; `unfinished` runs."""
    return findings(read(folder)) | {"page": str(folder / PAGE)}


def write(folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/` of a study or a run from its records alone, and return the page's path.

    Raises RecordError where no run is finished.
    """
    runs = read(folder)
    svgs = drawn(runs)
    for label, (wide, _) in svgs.items():
        write_text(folder / "figures" / f"{label}.svg", figures.standalone(wide))
    write_json(folder / "results.json", findings(runs) | {"page": PAGE, "figures": [f"figures/{label}.svg" for label in svgs]})
    write_text(folder / PAGE, page(runs, svgs))
    return folder / PAGE


def findings(runs: Runs) -> dict[str, Json]:
    table = cells(runs)
    first = runs.finished[0]
    recipe = first.recipe.get("name", "") if runs.study is None else runs.study.recipe.name
    return {
        "format": FORMAT,
        **({"question": runs.study.question} if runs.study and runs.study.question else {}),
        "dataset": first.dataset,
        "recipe": str(recipe),
        "verdict": "\n".join(verdict(table, first.classes)),
        "cells": [cell.json for cell in table],
        "unfinished": [asdict(run) for run in runs.unfinished],
        "damaged": [asdict(run) for run in runs.damaged],
    }


def page(runs: Runs, svgs: dict[str, tuple[str, str]]) -> str:
    """The page as HTML: style and figures inside, nothing fetched."""
    table, first = cells(runs), runs.finished[0]
    lead, *findings = verdict(table, first.classes)
    inks = figures.inks(len({cell.depth for cell in table}))
    return rendered(
        "report.html.j2",
        title=title(runs, table),
        subject=subject(table, known_as(first.dataset)),
        lead=unbroken(lead),
        findings=[opened(unbroken(finding), table) for finding in findings],
        arms={capital(name(arm)): [row(cell, first.classes) for cell in group] for arm, group in by_arm(table).items()},
        below=unbroken(f"{100 * SET_OUT * (1 - 1 / first.classes):.0f} %"),
        every=max((cell.line_every or 0 for cell in table), default=0),
        spread=any(cell.seeds > 1 for cell in table),
        figures=figures.in_page(svgs, TITLES, inks),
        inks=inks,
        measured={part: unbroken(words) for part, words in measured(runs).items()},
        unfinished=[*map(unfinished, runs.unfinished), *map(damaged, runs.damaged)],
    )


def title(runs: Runs, table: Sequence[Cell]) -> str:
    if runs.study and runs.study.question:
        return runs.study.question
    return "Do deeper networks train?" if len(table) > 1 else f"How well does {runs.finished[0].name} train?"


def subject(table: Sequence[Cell], data: str) -> str:
    arms = listed([name(arm) for arm in dict.fromkeys(cell.arm for cell in table)])
    depths = listed([str(depth) for depth in sorted({cell.depth for cell in table})])
    return f"{capital(arms)} nets of {depths} layers on {data}"


def row(cell: Cell, classes: int) -> list[tuple[str, str]]:
    """A row of the table, each part with what stands small beneath it: depth, errors and gap (%), start, seeds, size, time."""
    gap = (value(cell, "gap"), cell.gap_sd)
    numbers = [(cell.fit, cell.fit_sd), (cell.dev_error, cell.dev_error_sd), (cell.test_error, cell.test_error_sd), gap]
    start = told(cell, "start").replace("more than ", "> ").replace("over ", "> ") if cell.set_out_step is not None else "–"
    return [
        (str(cell.depth), "at chance" if at_chance(cell, classes) else ""),
        *((with_spread(mean, sd), interval(sd, cell.seeds)) for mean, sd in numbers),
        (start, ""),
        (str(cell.seeds), ""),
        (f"{cell.parameters:,}" if cell.parameters is not None else "–", ""),
        (duration(cell.seconds or 0), ""),
    ]


def interval(sd: float | None, seeds: int) -> str:
    """Half of the confidence interval in percent, where there is one."""
    half = half_width(sd, seeds)
    return f"CI ± {100 * half:.1f}" if half is not None else ""


def unfinished(run: Unfinished) -> str:
    what = f"{run.name}, seed {run.seed}" + (f" ({name(run.arm)})" if run.arm and run.arm not in run.name else "")
    return f"{what}: " + (f"measured up to step {run.step:,}" if run.step is not None else "nothing measured yet")


def damaged(run: Damaged) -> str:
    return f"{run.folder}: skipped, for its {run.why}"


def with_spread(mean: float, sd: float | None) -> str:
    """A mean in [0, 1], and its sd if any, in percent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def opened(finding: str, table: Sequence[Cell]) -> tuple[str, str]:
    """`Plain: ...` as `Plain` and the rest, where a finding is about one arm, or begins with what it is about."""
    for head in ("Slow start: ", "Over-fitting: ", *(f"{capital(name(cell.arm))}: " for cell in table)):
        if finding.startswith(head):
            return head[:-2], capital(finding.removeprefix(head))
    return "", finding


def unbroken(sentence: str) -> str:
    """With no line break between a number and its percent sign."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")
