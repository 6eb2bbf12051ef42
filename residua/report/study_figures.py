"""Choose the figures for which a study has data, and render each of them at two widths."""

from collections.abc import Callable, Sequence

from residua.report.arms_figure import render_arms_figure
from residua.report.depth_figures import render_depth_figure
from residua.report.figures import DESKTOP_WIDTH, PHONE_WIDTH
from residua.report.learning_curves import render_learning_curves
from residua.report.learning_start_figure import render_learning_start_figure
from residua.report.recorded_run import FinishedRun
from residua.report.tables import StudyCell

FigureRenderer = Callable[[float], str]
"""Renders a figure as SVG at a width in inches."""

STUDY_FIGURE_TITLES = {
    "depth": "Training and test error against depth",
    "arms": "Training and test error of each net",
    "start": "Steps until a run starts learning, against depth",
    "curves": "Training and dev error over steps",
}
"""The title of each figure by its name, for screen readers."""


def render_study_figures(
    runs: Sequence[FinishedRun], cells: Sequence[StudyCell]
) -> dict[str, tuple[str, str]]:
    """Render each figure that the study has data for, as {name: (wide SVG, narrow SVG)}.

    `cells` are the averages of `runs` over seeds.
    """
    num_classes = runs[0].num_classes
    cells_with_start = [cell for cell in cells if cell.first_learned_step is not None]
    has_several_depths = len({cell.depth for cell in cells}) > 1
    renderers: dict[str, FigureRenderer] = {}
    if has_several_depths:
        renderers["depth"] = lambda width: render_depth_figure(cells, num_classes, width)
    elif len(cells) > 1:
        renderers["arms"] = lambda width: render_arms_figure(cells, num_classes, width)
    if has_several_depths and cells_with_start:
        renderers["start"] = lambda width: render_learning_start_figure(cells_with_start, width)
    if any(run.metric_lines for run in runs):
        renderers["curves"] = lambda width: render_learning_curves(runs, width)
    return {name: (draw(DESKTOP_WIDTH), draw(PHONE_WIDTH)) for name, draw in renderers.items()}
