"""The three figures of a lesion study, as SVG; each point has a tooltip with its value."""

from collections.abc import Callable

from residua.config.lesion_results import LesionStudyResult
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH
from residua.report.lesion_curve_figures import (
    render_deletions_swaps_figure,
    render_kept_units_paths_figure,
)
from residua.report.lesion_unit_figure import render_single_deletion_figure

LESION_FIGURES: dict[str, Callable[[LesionStudyResult, float], str]] = {
    "units": render_single_deletion_figure,
    "many": render_deletions_swaps_figure,
    "paths": render_kept_units_paths_figure,
}
LESION_FIGURE_TITLES = {
    "units": "Error without each unit",
    "many": "Error with random units deleted or swapped",
    "paths": "Error and gradient by path length",
}


def render_lesion_figures(study: LesionStudyResult) -> dict[str, tuple[str, str]]:
    """Render the figures of a lesion study, as {name: (desktop SVG, phone SVG)}."""
    return {
        name: (render(study, DESKTOP_WIDTH), render(study, PHONE_WIDTH))
        for name, render in LESION_FIGURES.items()
    }
