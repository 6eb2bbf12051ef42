"""The figures of a study: errors against depth or by arm, errors over steps, and how late runs begin to learn.

Errors in [0, 1] come in, percent is drawn.
"""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from residua.report.compare import by_arm, name, percent, told
from residua.report.figures import (
    NARROW,
    QUIET,
    TICKS,
    WIDE,
    blank,
    depth_inks,
    family_ink,
    key,
    label_ends,
    marker,
    saved,
    scale_errors,
    styled,
    tip,
    uncrowded,
)  # fmt: skip
from residua.report.runs import Finished, Runs
from residua.report.tables import Cell, cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawing = Callable[[float], str]
"""A figure as SVG text, by its width in inches."""


def drawn(runs: Runs) -> dict[str, tuple[str, str]]:
    """Each figure of a study or a run, for a desk and for a phone; those that there is something to draw in."""
    table, classes = cells(runs), runs.finished[0].classes
    several = len({cell.depth for cell in table}) > 1
    drawings: dict[str, Drawing] = {}
    if several:
        drawings["depth"] = lambda width: depth_figure(table, classes, width)
    elif len(table) > 1:
        drawings["arms"] = lambda width: arms_figure(table, classes, width)
    if several and any(cell.set_out_step is not None for cell in table):
        drawings["start"] = lambda width: start_figure([cell for cell in table if cell.set_out_step is not None], width)
    if any(run.lines for run in runs.finished):
        drawings["curves"] = lambda width: curves_figure(runs.finished, width)
    return {label: (draw(WIDE), draw(NARROW)) for label, draw in drawings.items()}


def depth_figure(cells: Sequence[Cell], classes: int, width: float = WIDE) -> str:
    """SVG `width` inches wide: final training error (dashed) and test error (solid), in percent, against depth; a line an arm."""
    with styled(f"depth {width}"):
        figure, axes = depth_axes(cells, width)
        errors = [100 * error for cell in cells for error in (cell.fit, cell.test_error + (cell.test_error_sd or 0))]
        scale_errors(axes, errors, 100 * (1 - 1 / classes))
        axes.set_ylabel("error (%)")
        ends = []
        for i, (arm, group) in enumerate(by_arm(cells).items()):
            draw_errors(axes, group, i)
            ends.append((100 * group[-1].test_error, fill(name(arm), 20), family_ink(i), marker(i)))
            for cell in group if width == WIDE else ():
                tip(axes, cell.depth, 100 * cell.test_error, in_words(cell))
        label_ends(axes, ends, size=9.5)
        keys = [key("-", "test error"), key("--", "training error")]
        axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2)
        return saved(figure)


def depth_axes(cells: Sequence[Cell], width: float) -> tuple["Figure", "Axes"]:
    """A figure, and axes over the depths of `cells` with room for the arms' names at the right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    depths = sorted({cell.depth for cell in cells})
    labels = [fill(name(arm), 20).split("\n") for arm in dict.fromkeys(cell.arm for cell in cells)]
    height = max(4.0 if width == WIDE else 3.7, 1.0 + 0.17 * len(labels) * max(len(lines) for lines in labels))
    right = 0.35 + 0.078 * max(len(line) for lines in labels for line in lines)
    figure = blank(width, height)
    axes = figure.add_axes((0.62 / width, 0.52 / height, 1 - (0.62 + right) / width, 1 - 0.92 / height))
    axes.set_xscale("log")  # 20, 56, 110, 1202 layers
    axes.set_xlim(depths[0] / 1.12, depths[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(uncrowded(depths))
    axes.set_xlabel("depth (weight layers)")
    return figure, axes


def draw_errors(axes: "Axes", group: list[Cell], index: int) -> None:
    ink = family_ink(index)
    errors = [(cell.fit, cell.fit_sd) for cell in group], [(cell.test_error, cell.test_error_sd) for cell in group]
    styles = ({"ls": "--", "lw": 1.2, "ms": 4, "mfc": "none"}, {"ls": "-", "lw": 2.0, "ms": 5.5})
    for pairs, style in zip(errors, styles, strict=True):
        means = [100 * mean for mean, _ in pairs]
        axes.plot([cell.depth for cell in group], means, color=ink, marker=marker(index), clip_on=False, **style)  # type: ignore[arg-type]
        for cell, mean, (_, sd) in zip(group, means, pairs, strict=True):
            if sd is not None:
                bar = ([min(100 * sd, mean)], [100 * sd])  # no error is under 0
                axes.errorbar(cell.depth, mean, bar, color=ink, elinewidth=1, capsize=3, clip_on=False)


def in_words(cell: Cell) -> str:
    """What a point shows to the pointer."""
    errors = f"test error {spread(cell.test_error, cell.test_error_sd)}, training error {spread(cell.fit, cell.fit_sd)}"
    return f"{name(cell.arm)}, {cell.depth} layers: {errors}; {cell.seeds} seed{'s' if cell.seeds > 1 else ''}"


def spread(mean: float, sd: float | None) -> str:
    return percent(mean) if sd is None else f"{percent(mean)} ± {100 * sd:.1f}"


def arms_figure(cells: Sequence[Cell], classes: int, width: float = WIDE) -> str:
    """SVG `width` inches wide: final training (hollow) and test error (filled), in percent, of each arm at one depth."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rows = sorted(cells, key=lambda cell: -cell.test_error)
    labels = [fill(name(cell.arm), 26 if width == WIDE else 17) for cell in rows]
    with styled(f"arms {width}"):
        height = 0.95 + sum(0.2 + 0.15 * (label.count("\n") + 1) for label in labels)
        left = 0.25 + 0.078 * max(len(line) for label in labels for line in label.split("\n"))
        figure = blank(width, height)
        axes = figure.add_axes((left / width, 0.5 / height, 1 - (left + 0.2) / width, 1 - 0.85 / height))
        top = max([cell.test_error + (cell.test_error_sd or 0) for cell in rows] + [cell.fit for cell in rows])
        axes.set_xscale("asinh", linear_width=1)  # 1 % and 90 % can be read alike
        axes.set_xlim(0, min(max(130 * top, 1.3), 125))
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if tick <= max(115 * top, 1)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlabel(f"error (%), {rows[0].depth} layers")
        axes.grid(visible=True, axis="x")
        for i, cell in enumerate(rows):
            ink = family_ink([other.arm for other in cells].index(cell.arm))
            axes.plot(100 * cell.fit, i, color=ink, marker="o", ms=5, mfc="none", ls="none", clip_on=False)
            axes.plot(100 * cell.test_error, i, color=ink, marker="o", ms=6, ls="none", clip_on=False)
            if cell.test_error_sd is not None:
                axes.errorbar(100 * cell.test_error, i, xerr=100 * cell.test_error_sd, color=ink, elinewidth=1, capsize=3)
            if width == WIDE:
                tip(axes, 100 * cell.test_error, i, in_words(cell))
        chance = 100 * (1 - 1 / classes)
        if 130 * top > chance:
            axes.axvline(chance, color=QUIET, lw=1, ls=(0, (1, 2)))
        dots = [key("none", "test error", marker="o"), key("none", "training error", marker="o")]
        dots[1].set_markerfacecolor("none")
        axes.legend(handles=dots, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        return saved(figure)


def start_figure(cells: Sequence[Cell], width: float = WIDE) -> str:
    """SVG `width` inches wide: steps until a run has begun to learn against depth; above the line, not in all its steps."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    every, steps = min(cell.line_every or 1 for cell in cells), max(cell.steps or 1 for cell in cells)
    with styled(f"start {width}"):
        figure, axes = depth_axes(cells, width)
        axes.set_yscale("log")
        axes.set_ylim(every / 1.4, steps * 1.45)
        ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if every / 1.4 <= tick < steps / 1.15]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.set_ylabel("steps")
        axes.axhline(steps, color=QUIET, lw=1, ls=(0, (1, 2)))
        axes.annotate(f"not in {steps:,} steps", (0, steps), (2, 2), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=QUIET, fontsize=8.5)  # fmt: skip
        ends = []
        for i, (arm, group) in enumerate(by_arm(cells).items()):
            heights = [height(cell) for cell in group]
            axes.plot([cell.depth for cell in group], heights, color=family_ink(i), marker=marker(i), ms=5.5, lw=1.6, clip_on=False)
            ends.append((heights[-1], fill(name(arm), 20), family_ink(i), marker(i)))
            for cell, at in zip(group, heights, strict=True) if width == WIDE else ():
                tip(axes, cell.depth, at, f"{name(arm)}, {cell.depth} layers: {told(cell, 'start')} steps, to within {every}")
        label_ends(axes, ends, size=9.5)
        return saved(figure)


def height(cell: Cell) -> float:
    """Where a start is drawn: above the line of all steps, where no seed made one."""
    return (cell.set_out_step or 1.0) * (1.18 if cell.set_out == 0 else 1)


def curves_figure(runs: Sequence[Finished], width: float = WIDE) -> str:
    """SVG `width` inches wide: training and dev error over steps, in percent, and the final test error; a panel an arm."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    arms = list(dict.fromkeys(run.arm for run in runs))
    columns = min(3 if width == WIDE else 1, len(arms))
    rows = -(-len(arms) // columns)
    depths = sorted({run.depth for run in runs})
    ink_of = dict(zip(depths, depth_inks(len(depths)), strict=True))
    errors = [100 * run.result.test_error for run in runs]
    errors += [error for run in runs for split in ("train", "dev") for error in curve(run, f"{split}_error")[1]]
    with styled(f"curves {width}"):
        figure = blank(width, (2.55 if columns > 1 or width == WIDE else 2.2) * rows + 0.75)
        grid = figure.add_gridspec(rows, columns, left=0.62 / width, right=1 - 0.36 / width, wspace=0.26, hspace=0.4,
                                   bottom=0.5 / figure.get_figheight(), top=1 - 0.62 / figure.get_figheight())  # fmt: skip
        for i, arm in enumerate(arms):
            axes = figure.add_subplot(grid[divmod(i, columns)])
            axes.set_title(fill(name(arm), 26 if columns > 1 else 44), loc="left", fontsize=9.5, fontweight="bold")
            axes.set_xlim(0, max(run.result.steps for run in runs))
            axes.xaxis.set_major_locator(MaxNLocator(3 if columns > 1 else 5, steps=(1, 2, 5, 10), integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            scale_errors(axes, errors)
            draw_curves(axes, [run for run in runs if run.arm == arm], ink_of, width == WIDE)
            axes.tick_params(labelleft=i % columns == 0)
            axes.set_ylabel("error (%)" if i % columns == 0 else "")
            axes.set_xlabel("step" if i + columns >= len(arms) else "")
        keys = [key("-", "dev", 1.5), key("--", "training", 0.9), key("none", "test, at the end", marker="o")]
        corner = (0.5 / width, 1)
        figure.legend(handles=keys, loc="upper left", bbox_to_anchor=corner, ncols=3, columnspacing=1.0, handletextpad=0.5)
        return saved(figure)


def draw_curves(axes: "Axes", runs: list[Finished], ink_of: dict[int, str], hover: bool) -> None:
    ends: dict[int, list[float]] = {}
    for run in runs:
        ink = ink_of[run.depth]
        axes.plot(*curve(run, "train_error"), color=ink, ls=(0, (3, 1.5)), lw=0.9)
        axes.plot(*curve(run, "dev_error"), color=ink, lw=1.5)
        test = 100 * run.result.test_error
        axes.plot(run.result.steps, test, color=ink, marker="o", ms=5, clip_on=False, zorder=4)
        if hover:
            words = f"{name(run.arm)}, {run.depth} layers, seed {run.seed}: test error {percent(run.result.test_error)}"
            tip(axes, run.result.steps, test, words)
        ends.setdefault(run.depth, []).append(test)
    label_ends(axes, [(sum(tests) / len(tests), str(depth), ink_of[depth], "") for depth, tests in ends.items()], size=9)


def curve(run: Finished, what: str) -> tuple[list[float], list[float]]:
    """Steps and that error in percent, where it was measured."""
    points = [(line["step"], line.get(what)) for line in run.lines]
    kept = [(step, 100 * error) for step, error in points if step is not None and error is not None]
    if what == "train_error" and len(kept) > 2 and kept[-1][0] - kept[-2][0] < (kept[1][0] - kept[0][0]) / 2:
        kept.pop()  # it is counted since the line before: over a few last steps it is noise
    return [step for step, _ in kept], [error for _, error in kept]
