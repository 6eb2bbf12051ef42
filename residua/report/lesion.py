"""The page of a lesion study, and its numbers as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

from residua.config.lesion_results import LesionStudyResult, NetworkLesionResult
from residua.config.plan import plan
from residua.config.serialize import FORMAT_VERSION, Json, from_json, to_json
from residua.errors import RecordError, UsageError
from residua.files import write_json, write_text
from residua.report import figures, lesion_figures
from residua.report.html import render_template
from residua.report.lesion_summary import (
    describe_lesion_study,
    format_error_with_sd,
    format_percent_number,
    get_shape_changing_errors,
)
from residua.report.network_diagram import render_network_diagram
from residua.report.significance import join_with_and
from residua.report.study import make_percent_nonbreaking

LESION_PAGE, LESION_RECORD = "report.html", "results.json"


def check_lesion_output_folder(folder: Path) -> None:
    """UsageError where `folder` holds something else than a lesion study, which would be written over."""
    if (
        folder.exists()
        and not (folder.is_dir() and not any(folder.iterdir()))
        and not holds_lesion_study(folder)
    ):
        raise UsageError(f"{folder} holds something else: choose another --out")


def holds_lesion_study(folder: Path) -> bool:
    """Whether `folder` holds a lesion study."""
    try:
        content = json.loads((folder / LESION_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == "lesion"


def make_lesion_json(lesion_study: LesionStudyResult) -> dict[str, Json]:
    """The study in numbers: `nets`, errors in [0, 1], each with `error`, `median`, `units`, `thinned`, `swapped`, `paths`; and
    `verdict`, a finding a line."""
    content = to_json(lesion_study)
    if not isinstance(content, dict):
        raise TypeError(f"{lesion_study} is no lesion study")
    return content | {"verdict": "\n".join(describe_lesion_study(lesion_study))}


def read_lesion_study(folder: Path) -> LesionStudyResult:
    """The study that `results.json` of a folder holds; RecordError where it holds none."""
    try:
        content = json.loads((folder / LESION_RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{folder} holds no lesion study: it has no {LESION_RECORD}") from None
    except ValueError as error:
        raise RecordError(f"{folder / LESION_RECORD} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != "lesion":
        raise RecordError(f"{folder / LESION_RECORD} holds no lesion study")
    if content.get("format") != FORMAT_VERSION:
        raise RecordError(
            f"{folder / LESION_RECORD} has format {content.get('format')}; this version reads format {FORMAT_VERSION}"
        )
    try:
        return from_json(
            LesionStudyResult, {name: value for name, value in content.items() if name != "verdict"}
        )
    except RecordError as error:
        raise RecordError(f"{folder / LESION_RECORD} is damaged: {error}") from error


def write_lesion_report(lesion_study: LesionStudyResult, folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/`, and return the page's path."""
    figure_svgs = render_lesion_figures(lesion_study)
    for label, (wide, _) in figure_svgs.items():
        write_text(folder / "figures" / f"{label}.svg", figures.add_white_background(wide))
    write_json(folder / LESION_RECORD, make_lesion_json(lesion_study))
    write_text(folder / LESION_PAGE, render_lesion_page(lesion_study, figure_svgs))
    return folder / LESION_PAGE


def render_lesion_figures(lesion_study: LesionStudyResult) -> dict[str, tuple[str, str]]:
    """Each figure as SVG, for a desk and for a phone."""
    figure_functions: dict[str, Callable[[LesionStudyResult, float], str]] = {
        "units": lesion_figures.render_single_deletion_figure,
        "many": lesion_figures.render_deletions_swaps_figure,
        "paths": lesion_figures.render_path_length_figure,
    }
    return {
        label: (
            drawn(lesion_study, figures.DESKTOP_WIDTH),
            drawn(lesion_study, figures.PHONE_WIDTH),
        )
        for label, drawn in figure_functions.items()
    }


def render_lesion_page(
    lesion_study: LesionStudyResult, figure_svgs: dict[str, tuple[str, str]]
) -> str:
    """The page as HTML: style, script and figures inside, nothing fetched."""
    titles = {
        "units": "Error without each unit",
        "many": "Error with many units deleted or swapped",
        "paths": "Error and gradient by path length",
    }
    colors = figures.make_figure_colors(1)
    lead, *findings, doubt = describe_lesion_study(lesion_study)
    return render_template(
        "lesion.html.j2",
        title="What does a net lose without a unit?",
        subject=f"{join_with_and([net.label for net in lesion_study.nets])} on {lesion_study.images:,} {lesion_study.split} images of {lesion_study.dataset}",
        lead=make_percent_nonbreaking(lead),
        findings=[make_spread_nonbreaking(finding).split(": ", 1) for finding in findings],
        doubt=make_percent_nonbreaking(doubt),
        figures=figures.inline_figures(figure_svgs, titles, colors),
        inks=colors,
        found=lesion_study,
        rows=[make_net_row(net) for net in lesion_study.nets],
        plain=any(not net.is_residual for net in lesion_study.nets),
        interpolated=any(not path.sampled for net in lesion_study.nets for path in net.paths),
        drawings=[
            (net.label, render_network_diagram(plan(net.network))) for net in lesion_study.nets
        ],
    )


def make_net_row(net: NetworkLesionResult) -> list[str]:
    worst_deletion, shape_change_errors = net.worst_deletion, get_shape_changing_errors(net)
    return [
        net.label,
        str(len(net.units)),
        format_percent_number(net.error),
        format_percent_number(net.median_deletion_error),
        format_percent_number(worst_deletion.error or 0),
        format_percent_number(median(shape_change_errors)) if shape_change_errors else "–",
        format_error_after_deletions(net, 2),
    ]


def format_error_after_deletions(net: NetworkLesionResult, num_deleted: int) -> str:
    deletion_result = next((many for many in net.thinned if many.deleted == num_deleted), None)
    return (
        format_error_with_sd(deletion_result.error, deletion_result.error_sd).removesuffix(" %")
        if deletion_result
        else "–"
    )


def make_spread_nonbreaking(finding: str) -> str:
    """With no line break inside `17.3 ± 2.1 %`."""
    return make_percent_nonbreaking(finding).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
