"""The three figures of a lesion study, as SVG text: each unit deleted, many units deleted or swapped, paths by length.

Each point tells its value: it stands in a group of the class `tip` with a title.  Errors in [0, 1] come in, percent is drawn.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from math import log2
from typing import TYPE_CHECKING

from residua.config.lesion_results import (
    LesionStudyResult,
    NetworkLesionResult,
    UnitDeletionResult,
    share_of_paths_by_length,
)
from residua.report.figures import (
    DESKTOP_WIDTH,
    GRID_COLOR,
    MUTED_COLOR,
    TEXT_COLOR,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    pick_series_color,
    set_error_axis,
    use_figure_style,
)
from residua.report.lesion_summary import format_error_with_sd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ErrorPoint = tuple[
    float, float, float | None, str
]  # where, an error, its sd, what a reader is told there


def render_single_deletion_figure(
    lesion_study: LesionStudyResult, width: float = DESKTOP_WIDTH
) -> str:
    """SVG `width` inches wide: the error without each unit, a panel a net; hollow where the unit changes the shape."""
    is_single_row = width == DESKTOP_WIDTH and len(lesion_study.nets) <= 3
    unit_counts = [len(net.units) for net in lesion_study.nets]
    panel_widths = [max(count, max(unit_counts) / 2.5) for count in unit_counts]
    rows, columns = (1, len(unit_counts)) if is_single_row else (len(unit_counts), 1)
    error_percents = [
        100 * error for net in lesion_study.nets for error in (net.error, *net.deletion_errors)
    ]
    with use_figure_style(f"units {width}"):
        figure = make_blank_figure(width, 3.4 if is_single_row else 2.5 * rows + 0.5)
        bottom, top = compute_margin_fractions(figure, 0.45, 0.62)
        grid = figure.add_gridspec(
            rows,
            columns,
            left=0.62 / width,
            right=1 - 0.12 / width,
            wspace=0.09,
            hspace=0.5,
            width_ratios=panel_widths if is_single_row else None,
            bottom=bottom,
            top=top,
        )
        for i, (net, color) in enumerate(
            zip(lesion_study.nets, pick_net_colors(lesion_study.nets), strict=True)
        ):
            axes = figure.add_subplot(
                grid[(0, i) if is_single_row else (i, 0)], sharey=figure.axes[0] if i else None
            )
            axes.set_title(net.label, loc="left", fontsize=9.5, fontweight="bold", color=color)
            axes.set_xlim(-0.6, len(net.units) - 0.4)
            if i == 0:
                set_error_axis(axes, error_percents, compute_chance_percent(lesion_study))
            axes.set_ylabel("error without the unit (%)" if i == 0 or not is_single_row else "")
            axes.tick_params(labelleft=i == 0 or not is_single_row)
            draw_single_deletions(axes, net, color)
        legend_marks = [
            make_legend_marker("o", "keeps the shape"),
            make_legend_marker("o", "changes it", hollow=True),
            make_legend_line("--", "the whole net", 1.1),
        ]
        if any(unit.error is None for net in lesion_study.nets for unit in net.units):
            legend_marks.append(make_legend_marker("x", "nothing can stand in"))
        figure.legend(
            handles=legend_marks,
            loc="upper left",
            bbox_to_anchor=(0.5 / width, 1),
            ncols=4 if width == DESKTOP_WIDTH else 2,
            columnspacing=1.2,
            handletextpad=0.5,
        )
        return embed_tooltip_titles(figure_to_svg(figure))


def draw_single_deletions(axes: "Axes", net: NetworkLesionResult, color: str) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    use_small_marks = len(net.units) > 120
    axes.axhline(100 * net.error, color=color, lw=1.1, ls=(0, (4, 2)), zorder=1)
    for i, unit in enumerate(net.units):
        if unit.error is None:
            axes.plot(i, 100 * net.error, color=MUTED_COLOR, marker="x", ms=5, ls="none", zorder=3)
            add_lesion_tooltip(
                axes,
                i,
                100 * net.error,
                f"{unit.name}: nothing can stand in for it, as it changes the shape",
            )
            continue
        error = 100 * unit.error
        axes.plot(
            [i, i],
            [100 * net.error, error],
            color=color,
            lw=0.6 if use_small_marks else 1.4,
            alpha=0.55,
            solid_capstyle="butt",
        )
        face_color = "none" if unit.changes_shape else color
        axes.plot(
            i,
            error,
            color=color,
            marker="o",
            ms=2.2 if use_small_marks else 5,
            mfc=face_color,
            mew=1.3,
            ls="none",
            zorder=3,
            clip_on=False,
        )
        add_lesion_tooltip(axes, i, error, f"without {unit.name}: {error:.1f} %")
    stage_centers, first_unit = [], 0
    for _, units in groupby(net.units, key=get_unit_stage):
        count = len(list(units))
        stage_centers.append(first_unit + (count - 1) / 2)
        first_unit += count
        if first_unit < len(net.units):
            axes.axvline(first_unit - 0.5, color=GRID_COLOR, lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(FixedLocator(stage_centers))
    axes.xaxis.set_minor_locator(NullLocator())
    has_label_room = len(net.units) > 4 * len(stage_centers)
    axes.set_xticklabels(
        [
            f"stage {s}" if has_label_room or s == 1 else str(s)
            for s, _ in enumerate(stage_centers, 1)
        ]
    )
    axes.tick_params(axis="x", length=0)


def get_unit_stage(unit: UnitDeletionResult) -> int:
    return unit.stage


def render_deletions_swaps_figure(
    lesion_study: LesionStudyResult, width: float = DESKTOP_WIDTH
) -> str:
    """SVG `width` inches wide: the error against the number of deletions at random, and against the number of swaps."""
    deletion_lines = [
        [
            (
                doubling_axis_position(0),
                100 * net.error,
                None,
                f"{net.label}, whole: {100 * net.error:.1f} %",
            )
        ]
        + [
            (
                doubling_axis_position(many.deleted),
                100 * many.error,
                share_to_percent(many.error_sd),
                f"{net.label}, {many.deleted} of {many.deleted + many.kept} deleted: {format_error_with_sd(many.error, many.error_sd)}",
            )
            for many in net.thinned
        ]
        for net in lesion_study.nets
    ]
    swap_lines = [
        [
            (
                doubling_axis_position(0),
                100 * net.error,
                None,
                f"{net.label}, whole: {100 * net.error:.1f} %",
            )
        ]
        + [
            (
                doubling_axis_position(many.swaps),
                100 * many.error,
                share_to_percent(many.error_sd),
                f"{net.label}, {many.swaps} swaps (tau {many.tau:.2f}): {format_error_with_sd(many.error, many.error_sd)}",
            )
            for many in net.swapped
        ]
        for net in lesion_study.nets
    ]
    with use_figure_style(f"many {width}"):
        figure, panels = make_two_panels(width, 3.5)
        for axes, lines, label in zip(
            panels,
            (deletion_lines, swap_lines),
            ("units deleted at random", "pairs of units swapped"),
            strict=True,
        ):
            draw_error_lines(axes, lesion_study, lines)
            axes.set_xlabel(label)
            set_doubling_ticks(axes, lines)
        add_net_legend(figure, lesion_study.nets, width)
        return embed_tooltip_titles(figure_to_svg(figure))


def render_path_length_figure(lesion_study: LesionStudyResult, width: float = DESKTOP_WIDTH) -> str:
    """SVG `width` inches wide: the error with k units kept, and the gradient's share by path length beside the paths' share."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    residual_nets = [net for net in lesion_study.nets if net.paths]
    colors = [
        ink
        for net, ink in zip(lesion_study.nets, pick_net_colors(lesion_study.nets), strict=True)
        if net.paths
    ]
    kept_unit_lines = [
        [
            (
                float(many.kept),
                100 * many.error,
                share_to_percent(many.error_sd),
                f"{net.label}, {many.kept} units kept: {format_error_with_sd(many.error, many.error_sd)}",
            )
            for many in reversed(net.thinned)
        ]
        + [
            (
                float(len(net.units)),
                100 * net.error,
                None,
                f"{net.label}, whole: {100 * net.error:.1f} %",
            )
        ]
        for net in residual_nets
    ]
    with use_figure_style(f"paths {width}"):
        figure, (left, right) = make_two_panels(width, 3.5)
        draw_error_lines(left, lesion_study, kept_unit_lines, colors)
        left.set_xlabel("units kept: the longest path")
        for net, color in zip(residual_nets, colors, strict=True):
            lengths, shares = (
                [path.units for path in net.paths],
                [100 * path.share for path in net.paths],
            )
            right.fill_between(lengths, shares, color=color, alpha=0.16, lw=0)
            right.plot(lengths, shares, color=color, lw=1.8)
            right.plot(
                lengths,
                [100 * share for share in share_of_paths_by_length(len(net.units))],
                color=color,
                lw=1.2,
                ls=(0, (4, 2)),
            )
            for length, share in zip(lengths, shares, strict=True):
                add_lesion_tooltip(
                    right,
                    length,
                    share,
                    f"{net.label}, paths of {length} units: {share:.2g} % of the gradient",
                )
        right.set_xlabel("units on the path")
        right.set_ylabel("share (%)")
        right.set_ylim(bottom=0)
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        for axes in (left, right):
            axes.set_xlim(0, max(len(net.units) for net in residual_nets))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.legend(
            loc="upper right",
            handles=[
                make_legend_line("-", "of the gradient", 1.8),
                make_legend_line("--", "of all paths", 1.2),
            ],
        )
        add_net_legend(figure, residual_nets, width, colors)
        return embed_tooltip_titles(figure_to_svg(figure))


def draw_error_lines(
    axes: "Axes",
    lesion_study: LesionStudyResult,
    lines: Sequence[Sequence[ErrorPoint]],
    colors: Sequence[str] | None = None,
) -> None:
    """A line of points for each net, with bars of one sd; all panels share a scale."""
    error_percents = [
        100 * error
        for net in lesion_study.nets
        for error in (net.error, *net.deletion_errors, *(many.error for many in net.thinned))
    ]
    set_error_axis(axes, error_percents)
    for points, color in zip(lines, colors or pick_net_colors(lesion_study.nets), strict=True):
        positions, heights = [x for x, *_ in points], [y for _, y, *_ in points]
        axes.plot(positions, heights, color=color, lw=1.6, marker="o", ms=4, clip_on=False)
        for x, y, sd, text in points:
            if sd is not None:
                axes.errorbar(x, y, ([min(sd, y)], [sd]), color=color, elinewidth=1, capsize=2.5)
            add_lesion_tooltip(axes, x, y, text)
    axes.set_ylabel("error (%)")


def doubling_axis_position(count: int) -> float:
    """Where a count stands on an axis of doublings that begins with 0."""
    return log2(count) + 1 if count else 0.0


def set_doubling_ticks(axes: "Axes", lines: Sequence[Sequence[ErrorPoint]]) -> None:
    """Ticks at 0, 1, 2, 4, ..."""
    from matplotlib.ticker import FixedLocator, NullLocator

    max_position = max(x for points in lines for x, *_ in points)
    ticks = [0, *(2**i for i in range(int(max_position)))]
    axes.set_xlim(-0.25, max_position + 0.25)
    axes.xaxis.set_major_locator(FixedLocator([doubling_axis_position(count) for count in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{count:,}" for count in ticks])


def make_two_panels(
    width_inches: float, height_inches: float
) -> "tuple[Figure, tuple[Axes, Axes]]":
    """Side by side at a desk, one above the other on a phone."""
    figure = make_blank_figure(
        width_inches, height_inches if width_inches == DESKTOP_WIDTH else 2 * height_inches - 0.6
    )
    grid_shape = (1, 2) if width_inches == DESKTOP_WIDTH else (2, 1)
    bottom, top = compute_margin_fractions(figure, 0.52, 0.4)
    left, right = 0.62 / width_inches, 1 - 0.15 / width_inches
    grid = figure.add_gridspec(
        *grid_shape, left=left, right=right, bottom=bottom, top=top, wspace=0.26, hspace=0.32
    )
    return figure, (figure.add_subplot(grid[0]), figure.add_subplot(grid[1]))


def compute_margin_fractions(
    figure: "Figure", below_inches: float, above_inches: float
) -> tuple[float, float]:
    """Where panels begin and end that leave so many inches free."""
    return below_inches / figure.get_figheight(), 1 - above_inches / figure.get_figheight()


def add_net_legend(
    figure: "Figure",
    nets: Sequence[NetworkLesionResult],
    width: float,
    colors: Sequence[str] | None = None,
) -> None:
    legend_lines = [make_legend_line("-", net.label, 1.8) for net in nets]
    for line, ink in zip(legend_lines, colors or pick_net_colors(nets), strict=True):
        line.set_color(ink)
    figure.legend(
        handles=legend_lines,
        loc="upper left",
        bbox_to_anchor=(0.5 / width, 1),
        ncols=3 if width == DESKTOP_WIDTH else 1,
    )


def make_legend_marker(marker_shape: str, label: str, hollow: bool = False) -> "Line2D":
    line = make_legend_line("none", label, marker=marker_shape)
    line.set_markerfacecolor("none" if hollow else TEXT_COLOR)
    return line


def add_lesion_tooltip(axes: "Axes", x: float, y: float, text: str) -> None:
    """An unseen mark, large enough to be met, that tells `text`."""
    axes.plot(
        x,
        y,
        marker="o",
        ms=11,
        color=TEXT_COLOR,
        alpha=0,
        ls="none",
        gid=f"tip:{text}",
        zorder=5,
        clip_on=False,
    )


def embed_tooltip_titles(svg: str) -> str:
    """With the text of each `tip` as a title, which browsers show and readers read."""
    return re.sub(r'<g id="tip:([^"]*)">', r'<g class="tip"><title>\1</title>', svg)


def pick_net_colors(nets: Sequence[NetworkLesionResult]) -> list[str]:
    """Plain nets have the ink that plain nets have in a study, and residual nets the others."""
    residual_count, colors = 0, []
    for net in nets:
        residual_count += net.is_residual
        colors.append(pick_series_color(residual_count if net.is_residual else 0))
    return colors


def compute_chance_percent(lesion_study: LesionStudyResult) -> float:
    """The error of guessing, in percent."""
    return 100 * (1 - 1 / lesion_study.classes)


def share_to_percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
