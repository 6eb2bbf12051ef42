"""Draws Figure 6 of He et al. 2015 from the records (for papers.py)."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from residua.config.network import Network
from residua.record import RunRecord
from residua.report.figures import (
    add_white_background,
    figure_to_svg,
    make_blank_figure,
    make_legend_line,
    map_depth_colors_to_dark,
    set_asinh_error_y_axis,
    use_figure_style,
)

FAMILIES = {"plain": "plain nets", "resnet": "residual nets"}
DEPTHS = (20, 32, 44, 56, 110)


def make_figures(records: Iterable[RunRecord]) -> dict[str, str]:
    """Draw one figure per recipe with which nets of both kinds were trained: name and SVG.

    Returns {} without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}
    curves = collect_curves(records)
    return {
        f"figure-6-{to_file_name(label)}.svg": draw_figure(label, nets)
        for label, nets in sorted(curves.items())
        if all(any(family == kind for kind, _ in nets) for family in FAMILIES)
    }


def to_file_name(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-")


def collect_curves(
    records: Iterable[RunRecord],
) -> dict[str, dict[tuple[str, int], list[dict[str, Any]]]]:
    """Collect the metrics of plain and residual nets, by recipe, then by kind and depth.

    Of several seeds, the lowest one is shown.
    """
    curves: dict[str, dict[tuple[str, int], tuple[int, list[dict[str, Any]]]]] = defaultdict(dict)
    for record in records:
        run = record.read_run()
        match = re.fullmatch(r"cifar-(plain|resnet)([0-9]+)", run.network.name)
        is_drawn = isinstance(run.network, Network) and match and int(match[2]) in DEPTHS
        if not is_drawn or not match or run.recipe is None or run.dataset != "cifar10":
            continue
        length = f"{run.recipe.epochs:g} epochs" if run.recipe.epochs else ""
        label = f"{run.recipe.name}, {length or f'{run.recipe.steps:,} steps'}"
        key, shown = (match[1], int(match[2])), curves[label]
        if key not in shown or run.seed < shown[key][0]:
            shown[key] = run.seed, [dict(row) for row in record.read_metrics()]
    return {label: {key: rows for key, (_, rows) in nets.items()} for label, nets in curves.items()}


def draw_figure(label: str, nets: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """Draw the curves of one recipe: plain nets on the left, residual nets on the right."""
    with use_figure_style("papers-figure-6"):
        figure = make_blank_figure(9, 3.6)
        colors = dict(zip(DEPTHS, map_depth_colors_to_dark(len(DEPTHS)), strict=True))
        errors = [
            100 * row[kind]
            for rows in nets.values()
            for row in rows
            for kind in ("train_error", "dev_error")
            if row[kind] is not None
        ]
        for index, (family, title) in enumerate(FAMILIES.items()):
            axes = figure.add_subplot(1, 2, index + 1)
            axes.set_title(f"{title}, recipe {label}", loc="left", fontsize=9.5)
            axes.set_xlabel("steps (thousands)")
            axes.set_ylabel("error in %")
            for depth in (depth for kind, depth in sorted(nets) if kind == family):
                rows = nets[family, depth]
                steps = [row["step"] / 1000 for row in rows]
                for kind, style in (("train_error", "--"), ("dev_error", "-")):
                    heights = [100 * row[kind] for row in rows]
                    axes.plot(steps, heights, ls=style, lw=1.2, color=colors[depth])
            set_asinh_error_y_axis(axes, errors, chance_percent=90)
        lines = [make_legend_line("--", "training error"), make_legend_line("-", "dev error")]
        for depth in sorted({depth for _, depth in nets}):
            line = make_legend_line("-", f"{depth} layers")
            line.set_color(colors[depth])
            lines.append(line)
        figure.tight_layout(rect=(0, 0, 0.86, 1))
        figure.legend(handles=lines, loc="center right")
        return add_white_background(figure_to_svg(figure))
