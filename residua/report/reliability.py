"""The reliability figure, as SVG text: how often a network is right against how sure it is."""

from typing import TYPE_CHECKING

from residua.report.figures import FAMILY_INKS, GROUND, INK, QUIET, WIDE, blank, saved, styled
from residua.spec.evaluation import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, RIGHT = list(FAMILY_INKS)[:2]
INKS = GROUND | {ink: FAMILY_INKS[ink] for ink in (GAP, RIGHT)}


def reliability_figure(panels: dict[str, Calibration], width: float = WIDE) -> str:
    """SVG `width` inches wide: for each range of confidence the accuracy, its gap to the confidence, and the share of images."""
    columns = len(panels) if width == WIDE else 1
    rows = -(-len(panels) // columns)
    side = (width - 0.62 - 0.2 - 0.5 * (columns - 1)) / columns  # of a square, inches
    each = side + 0.75 + 1.05  # with the shares of images below, titles and labels
    with styled(f"reliability {width}"):
        figure = blank(width, rows * each)
        height = figure.get_figheight()
        for i, (title, found) in enumerate(panels.items()):
            row, column = divmod(i, columns)
            left, top = (0.62 + column * (side + 0.5)) / width, 1 - (row * each + 0.5) / height
            upper = figure.add_axes((left, top - side / height, side / width, side / height))
            lower = figure.add_axes((left, top - (side + 0.65) / height, side / width, 0.55 / height))
            upper.set_title(title, loc="left", fontsize=9.5, fontweight="bold", pad=16)
            upper.annotate(f"ECE {100 * found.ece:.1f} %", (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
                           color=QUIET, fontsize=9)  # fmt: skip
            draw_accuracy(upper, found)
            draw_shares(lower, found)
            if column == 0:
                upper.set_ylabel("right (%)")
                lower.set_ylabel("images (%)")
        return saved(figure)


def draw_accuracy(axes: "Axes", found: Calibration) -> None:
    """A line at each bin's accuracy, and between it and the confidence the gap."""
    n = len(found.bins)
    axes.plot([0, 100], [0, 100], color=QUIET, lw=1, ls=(0, (1, 2)), zorder=3)
    for i, b in enumerate(found.bins):
        if b.count:
            left, right = 100 * (i + 0.06) / n, 100 * (i + 0.94) / n
            low, high = sorted((100 * b.accuracy, 100 * b.confidence))
            axes.fill_between([left, right], 0, low, color=RIGHT, lw=0)
            axes.fill_between([left, right], low, high, color=GAP, lw=0, alpha=0.6)
            axes.plot([left, right], [100 * b.accuracy] * 2, color=INK, lw=1.3, zorder=4)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    axes.tick_params(labelbottom=False)


def draw_shares(axes: "Axes", found: Calibration) -> None:
    """A bar for each bin's share of the images."""
    n, total = len(found.bins), sum(b.count for b in found.bins)
    places = [100 * (i + 0.5) / n for i in range(n)]
    axes.bar(places, [100 * b.count / total for b in found.bins], width=88 / n, color=QUIET, lw=0)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=(0, 50))
    axes.set_xlabel("probability of the most probable class (%)")
