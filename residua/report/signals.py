"""The page of a network's signals: the answer in words, figures over units, a table by stage, from `signals.json` alone."""

import json
from pathlib import Path

from residua.errors import UsageError
from residua.files import write_json, write_text
from residua.report import panels
from residua.report.figures import NARROW, WIDE, in_page, standalone
from residua.report.html import rendered
from residua.report.measured import RECORD, Signals, read
from residua.report.method import machine_in_words, versions_in_words
from residua.report.page import PAGE, unbroken
from residua.report.signal_words import findings, lead, number, percent
from residua.spec.text import Json

TITLES = {
    "path": "Sums cut, and paths left, over units",
    "branch": "The branch's response over units",
    "gradients": "Gradient norms over units",
    "activations": "Mean and variance over units",
    "agreement": "Directions of gradients over units",
}


def claimed(out: Path | None, model: str) -> Path:
    """The folder to write to, by default signals/NAME; UsageError where it holds something else."""
    parts = Path(model).resolve().parts[-2:] if "/" in model or Path(model).is_dir() else (model,)
    folder = out or Path("signals") / ("-".join(parts) if parts[-1] in ("last", "best") else parts[-1])
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).exists():
        raise UsageError(f"{folder} is not empty and holds no signals: choose another --out")
    return folder


def keep(found: dict[str, Json], folder: Path) -> None:
    write_json(folder / RECORD, found)


def write(folder: Path) -> list[str]:
    """Write `report.html` and `figures/` from `signals.json`, and return the findings, the answer first."""
    signals = read(folder / RECORD)
    drawn = {
        name: tuple(panels.draw(shown, signals.measured, signals.foreseen, signals.stages, width) for width in (WIDE, NARROW))
        for name, shown in panels.FIGURES.items()
    }
    for name, (wide, _) in drawn.items():
        write_text(folder / "figures" / f"{name}.svg", standalone(wide))
    lines = [lead(signals), *findings(signals)]
    write_text(folder / PAGE, page(signals, lines, drawn))
    return lines


def results(folder: Path) -> tuple[list[str], dict[str, Json]]:
    """Write the page; its findings, and `signals.json` with `findings` and `page`."""
    lines = write(folder)
    content: dict[str, Json] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return lines, content | {"findings": list(lines), "page": str(folder / PAGE)}


def page(signals: Signals, lines: list[str], drawn: dict[str, tuple[str, ...]]) -> str:
    state = "trained" if signals.trained else "as it starts"
    return rendered(
        "signals.html.j2",
        title="What passes through, and what comes back?",
        subject=f"{signals.model}, {state}, unit by unit on {signals.images} images of {signals.data}",
        lead=unbroken(lines[0]),
        findings=[unbroken(line) for line in lines[1:]],
        figures=in_page(drawn, TITLES, panels.INKS),
        inks=panels.INKS,
        frame={size: frame(width) for size, width in (("wide", WIDE), ("narrow", NARROW))},
        values=values(signals),
        rows=[row(signals, stage) for stage in dict.fromkeys(signals.stages)],
        foreseen=bool(signals.foreseen),
        signals=signals,
        measured={
            "Network": f"{signals.model}, {signals.depth:,} layers, {len(signals.names)} units, "
            + ("trained weights" if signals.trained else f"initial weights from seed {signals.seed}"),
            "Images": f"the first {signals.images} training images of {signals.data}, one batch, without augmentation",
            "Machine": machine_in_words(signals.environment),
            "Versions": versions_in_words(signals.environment),
        },
    )


def frame(width: float) -> tuple[float, float]:
    """Where the panels begin and end, in percent of the figure's width."""
    return 100 * panels.LEFT / width, 100 - 100 * panels.RIGHT / width


def values(signals: Signals) -> dict[str, Json]:
    """What a reader can point at: for each figure its panels' numbers, as text, a unit each."""
    shown: dict[str, Json] = {}
    for name, figure in panels.FIGURES.items():
        rows: list[Json] = []
        for panel in figure:
            said = percent if panel.percent else number
            foreseen = signals.foreseen.get(panel.key) or [None] * len(signals.names)
            rows.append([
                SHORT[panel.key], [said(value) for value in signals.measured[panel.key]],
                [said(value) for value in foreseen] if any(value is not None for value in foreseen) else None,
            ])  # fmt: skip
        shown[name] = rows
    return {"names": list(signals.names), "figures": shown}


SHORT = {
    "clip_fraction": "cut", "survival": "uncut so far", "response_std": "response", "residual_ratio": "|F| / |x|",
    "gradient_norm": "weights", "activation_gradient_norm": "output", "mean": "mean", "variance": "variance",
    "gradient_cosine": "with the stage's end", "gradient_correlation": "between images",
}  # fmt: skip


def row(signals: Signals, stage: int) -> list[str]:
    """Of the table: units, cut by the first and the last; at the end paths left, |F| / |x|, mean and variance; gradient norms."""
    first, last = signals.stages.index(stage), signals.last(stage)
    m = signals.measured
    return [
        str(stage), str(last - first + 1), both(signals, "clip_fraction", first), both(signals, "clip_fraction", last),
        both(signals, "survival", last), number(m["residual_ratio"][last]), number(m["mean"][last]), number(m["variance"][last]),
        f"{number(m['gradient_norm'][first])} → {number(m['gradient_norm'][last])}",
    ]  # fmt: skip


def both(signals: Signals, key: str, unit: int) -> str:
    """Measured, and what the null model foresees, in percent."""
    value, foreseen = signals.measured[key][unit], signals.foreseen.get(key)
    told = number(None if value is None else 100 * value)
    expected = foreseen[unit] if foreseen else None
    return told + (f" ({number(100 * expected)})" if expected is not None else "")
