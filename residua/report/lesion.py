"""The page of a lesion study, and its numbers as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

from residua.errors import RecordError, UsageError
from residua.files import write_json, write_text
from residua.report import figures, lesion_figures
from residua.report.compare import listed
from residua.report.drawing import drawing
from residua.report.html import rendered
from residua.report.lesion_words import changing, points, told, verdict
from residua.report.page import unbroken
from residua.spec.lesion import Lesions, Net
from residua.spec.plan import plan
from residua.spec.text import FORMAT, Json, from_json, to_json

PAGE, NUMBERS = "report.html", "results.json"


def vacant(folder: Path) -> None:
    """UsageError where `folder` holds something else than a lesion study, which would be written over."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())) and not holds(folder):
        raise UsageError(f"{folder} holds something else: choose another --out")


def holds(folder: Path) -> bool:
    """Whether `folder` holds a lesion study."""
    try:
        held = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("kind") == "lesion"


def results(found: Lesions) -> dict[str, Json]:
    """The study in numbers: `nets`, errors in [0, 1], each with `error`, `median`, `units`, `thinned`, `swapped`, `paths`; and
    `verdict`, a finding a line."""
    content = to_json(found)
    if not isinstance(content, dict):
        raise TypeError(f"{found} is no lesion study")
    return content | {"verdict": "\n".join(verdict(found))}


def read(folder: Path) -> Lesions:
    """The study that `results.json` of a folder holds; RecordError where it holds none."""
    try:
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no lesion study: it has no {NUMBERS}") from None
    except ValueError as error:
        raise RecordError(f"{folder / NUMBERS} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != "lesion":
        raise RecordError(f"{folder / NUMBERS} holds no lesion study")
    if content.get("format") != FORMAT:
        raise RecordError(f"{folder / NUMBERS} has format {content.get('format')}; this version reads format {FORMAT}")
    try:
        return from_json(Lesions, {name: value for name, value in content.items() if name != "verdict"})
    except RecordError as error:
        raise RecordError(f"{folder / NUMBERS} is damaged: {error}") from error


def write(found: Lesions, folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/`, and return the page's path."""
    drawn = draw(found)
    for label, (wide, _) in drawn.items():
        write_text(folder / "figures" / f"{label}.svg", figures.standalone(wide))
    write_json(folder / NUMBERS, results(found))
    write_text(folder / PAGE, page(found, drawn))
    return folder / PAGE


def draw(found: Lesions) -> dict[str, tuple[str, str]]:
    """Each figure as SVG, for a desk and for a phone."""
    drawing: dict[str, Callable[[Lesions, float], str]] = {
        "units": lesion_figures.units_figure, "many": lesion_figures.many_figure, "paths": lesion_figures.paths_figure,
    }  # fmt: skip
    return {label: (drawn(found, figures.WIDE), drawn(found, figures.NARROW)) for label, drawn in drawing.items()}


def page(found: Lesions, drawn: dict[str, tuple[str, str]]) -> str:
    """The page as HTML: style, script and figures inside, nothing fetched."""
    titles = {
        "units": "Error without each unit", "many": "Error with many units deleted or swapped",
        "paths": "Error and gradient by path length",
    }  # fmt: skip
    inks = figures.inks(1)
    lead, *findings, doubt = verdict(found)
    return rendered(
        "lesion.html.j2",
        title="What does a net lose without a unit?",
        subject=f"{listed([net.label for net in found.nets])} on {found.images:,} {found.split} images of {found.dataset}",
        lead=unbroken(lead),
        findings=[together(finding).split(": ", 1) for finding in findings],
        doubt=unbroken(doubt),
        figures=figures.in_page(drawn, titles, inks),
        inks=inks,
        found=found,
        rows=[row(net) for net in found.nets],
        plain=any(not net.residual for net in found.nets),
        interpolated=any(not path.sampled for net in found.nets for path in net.paths),
        drawings=[(net.label, drawing(plan(net.network))) for net in found.nets],
    )


def row(net: Net) -> list[str]:
    worst, changed = net.worst, changing(net)
    return [
        net.label, str(len(net.units)), points(net.error), points(net.typical), points(worst.error or 0),
        points(median(changed)) if changed else "–", at(net, 2),
    ]  # fmt: skip


def at(net: Net, deleted: int) -> str:
    found = next((many for many in net.thinned if many.deleted == deleted), None)
    return told(found.error, found.error_sd).removesuffix(" %") if found else "–"


def together(finding: str) -> str:
    """With no line break inside `17.3 ± 2.1 %`."""
    return unbroken(finding).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
