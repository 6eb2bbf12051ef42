"""A page with a slider over depth: the training curves and final errors of a study's nets.

The page loads no other file, so that a document can show it in a frame.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from residua.config.serialize import Json
from residua.report.figures import BASE_COLORS, SERIES_COLORS, pick_series_color
from residua.report.format import capitalize_first, format_percent_number, make_percent_nonbreaking
from residua.report.html import render_template
from residua.report.learning_curves import average_error_curves
from residua.report.recorded_run import FinishedRun
from residua.report.significance import format_arm_name, format_learning_start
from residua.report.study import StudySummary
from residua.report.tables import StudyCell

CURVE_DIGITS = 2  # of a percentage in the page's data


class SliderText(NamedTuple):
    """What the page says: its title, the line below it, and its answer in one sentence."""

    title: str
    subject: str
    answer: str


def render_depth_slider(
    summary: StudySummary,
    arms: Sequence[str],
    text: SliderText,
    notes: Mapping[int, str] = {},  # never changed
) -> str:
    """Render the page for `arms`, which must have the same depths; it starts at the deepest nets.

    `notes` has a sentence for each depth that is shown with it.
    """
    cells = [cell for cell in summary.cells if cell.arm in arms]
    depths = sorted({cell.depth for cell in cells})
    runs = summary.runs.finished
    nets = [
        {
            "name": capitalize_first(format_arm_name(arm)),
            "color": pick_series_color(i)[1:],
            "cells": [
                make_cell_json(cell, [run for run in runs if is_run_of(run, cell)])
                for cell in sorted(cells, key=lambda cell: cell.depth)
                if cell.arm == arm
            ],
        }
        for i, arm in enumerate(arms)
    ]
    return render_template(
        "slider.html.j2",
        title=text.title,
        subject=text.subject,
        answer=make_percent_nonbreaking(text.answer),
        inks=BASE_COLORS | SERIES_COLORS,
        nets=nets,
        depths=depths,
        values={
            "depths": depths,
            "nets": nets,
            "steps": max(run.result.steps for run in runs),
            "notes": [notes.get(depth, "") for depth in depths],
        },
    )


def is_run_of(run: FinishedRun, cell: StudyCell) -> bool:
    return (run.arm, run.depth) == (cell.arm, cell.depth)


def make_cell_json(cell: StudyCell, runs: Sequence[FinishedRun]) -> dict[str, Json]:
    """Make the JSON of a net at a depth: its training curve with its range, and its final errors.

    Curves are lists of [step, mean, lowest, highest] in percent.
    """
    curve = average_error_curves(runs, "train_error")
    rows = zip(curve.steps, curve.means, curve.lowest, curve.highest, strict=True)
    return {
        "curve": [[int(step), *(round(p, CURVE_DIGITS) for p in values)] for step, *values in rows],
        "train": round(100 * cell.comparable_train_error, CURVE_DIGITS),
        "trainText": format_percent_number(cell.comparable_train_error),
        "testText": format_percent_number(cell.test_error),
        "start": format_learning_start(cell),
        "seeds": cell.seeds,
    }
