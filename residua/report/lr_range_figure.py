"""The figure of a learning-rate range test: loss against learning rate."""

from collections.abc import Sequence
from math import ceil, floor, log10

from residua.report.figures import (
    DESKTOP_WIDTH,
    MUTED_COLOR,
    PAPER_COLOR,
    TEXT_COLOR,
    add_white_background,
    figure_to_svg,
    make_blank_figure,
    pick_series_color,
    use_figure_style,
)

FIGURE_HEIGHT = 3.6  # inches
BACKGROUND_COLOR = "#ffffff"  # of an SVG file; behind a text, it hides the lines of other rates


def render_lr_range_figure(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marked_rates: dict[str, float],
) -> str:
    """Render an SVG file of the losses (dots) and smoothed losses (line) against learning rates.

    `marked_rates` are rates of the test, by the text that the figure writes at each.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    with use_figure_style("lr range"):
        figure = make_blank_figure(DESKTOP_WIDTH, FIGURE_HEIGHT)
        axes = figure.add_axes((0.09, 0.15, 0.88, 0.74))
        axes.set_title("training loss", loc="left", fontsize=9.5, fontweight="bold")
        axes.set_xscale("log")
        axes.set_xlim(rates[0] / 1.2, rates[-1] * 1.2)
        low, high = min(smoothed), max(smoothed[0], min(smoothed) * 1.5)
        margin = 0.25 * (high - low) or 0.1
        axes.set_ylim(max(low - margin, 0), high + 2 * margin)
        powers = range(floor(log10(rates[0])), ceil(log10(rates[-1])) + 1)
        ticks = [10.0**power for power in powers if rates[0] / 1.2 <= 10.0**power]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.set_xlabel("learning rate of the last layer, rising at every step")
        axes.plot(rates, losses, ls="none", marker="o", ms=2.2, mew=0, color=MUTED_COLOR, alpha=0.6)
        color = pick_series_color(1)
        axes.plot(rates, smoothed, color=color, lw=1.8)
        for i, (text, rate) in enumerate(sorted(marked_rates.items(), key=lambda item: item[1])):
            nearest = min(range(len(rates)), key=lambda k: abs(log10(rates[k] / rate)))
            axes.axvline(rate, color=MUTED_COLOR, lw=1, ls=(0, (1, 2)))
            axes.plot(
                rate, smoothed[nearest], marker="o", ms=6, mfc=PAPER_COLOR, mec=color, mew=1.5
            )
            axes.annotate(
                f"{text}: {rate:.2g}",
                (rate, 1 - 0.075 * i),
                (-4, -9),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                color=TEXT_COLOR,
                fontsize=8.5,
                bbox={"fc": BACKGROUND_COLOR, "ec": "none", "pad": 1},
            )
        return add_white_background(figure_to_svg(figure))
