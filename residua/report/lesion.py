"""The report of a lesion study: an HTML page, its figures, and `results.json`."""

from pathlib import Path
from statistics import median

from residua.bounded_json import read_json
from residua.config.lesion_results import LesionStudyResult, NetworkLesionResult
from residua.config.plan import plan
from residua.config.serialize import Json, from_json, to_json
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.files import holds_visible_entries, render_json, write_text_files
from residua.record_checks import read_json_record
from residua.report.figures import add_white_background, inline_figures, make_figure_colors
from residua.report.format import (
    NO_VALUE,
    format_percent_number,
    format_percent_number_with_sd,
    join_with_and,
    make_percent_nonbreaking,
)
from residua.report.html import REPORT_PAGE, render_template
from residua.report.lesion_figures import LESION_FIGURE_TITLES, render_lesion_figures
from residua.report.lesion_summary import describe_lesion_study, get_shape_changing_errors
from residua.report.network_diagram import render_network_diagram

LESION_RECORD = "results.json"


def check_lesion_output_folder(folder: Path) -> None:
    """Raise UsageError if `folder` is a file, or a non-empty folder without a lesion study."""
    is_free = not folder.exists() or (folder.is_dir() and not holds_visible_entries(folder))
    if not is_free and not holds_lesion_study(folder):
        raise UsageError(
            f"{folder} is not empty and contains no lesion study: choose another --out"
        )


def holds_lesion_study(folder: Path) -> bool:
    """Whether `folder` has the `results.json` of a lesion study, in any format version."""
    try:
        content = read_json(folder / LESION_RECORD)
    except RecordError:
        return False
    return isinstance(content, dict) and content.get("kind") == "lesion"


def make_lesion_json(study: LesionStudyResult) -> dict[str, Json]:
    """The content of `results.json`: the study's data, and its findings as text under `verdict`.

    Each entry of `nets` has `error`, `units`, `thinned`, `swapped` and `paths`.  Errors are in
    [0, 1].
    """
    content = to_json(study)
    if not isinstance(content, dict):
        raise TypeError(f"a lesion study must be stored as an object, not {content!r}")
    return content | {"verdict": "\n".join(describe_lesion_study(study))}


def read_lesion_study(folder: Path) -> LesionStudyResult:
    """Read `results.json`; raise RecordError if it is missing, damaged, or of another kind."""
    path = folder / LESION_RECORD
    content = read_json_record(path, "a lesion study")
    if content.get("kind") != "lesion":
        raise RecordError(f"{path} contains no lesion study")
    content.pop("verdict", None)  # it follows from the numbers
    try:
        return from_json(LesionStudyResult, content)
    except ResiduaError as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error


def write_lesion_report(study: LesionStudyResult, folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/`; return the page's path."""
    figure_svgs = render_lesion_figures(study)
    figures = {
        f"figures/{name}.svg": add_white_background(wide) for name, (wide, _) in figure_svgs.items()
    }
    record, page = render_json(make_lesion_json(study)), render_lesion_page(study, figure_svgs)
    write_text_files(folder, figures | {LESION_RECORD: record, REPORT_PAGE: page})
    return folder / REPORT_PAGE


def render_lesion_page(study: LesionStudyResult, figure_svgs: dict[str, tuple[str, str]]) -> str:
    """Render the page of a lesion study as HTML, with style, script and figures embedded."""
    colors = make_figure_colors(1)
    lead, *findings, standard_error = map(make_percent_nonbreaking, describe_lesion_study(study))
    net_labels = join_with_and([net.label for net in study.nets])
    images = f"{study.images:,} {study.split} images of {study.dataset}"
    return render_template(
        "lesion.html.j2",
        title="What does removing a unit cost?",
        subject=f"{net_labels} on {images}",
        lead=lead,
        findings=[finding.split(": ", 1) for finding in findings],
        standard_error=standard_error,
        figures=inline_figures(figure_svgs, LESION_FIGURE_TITLES, colors),
        inks=colors,
        study=study,
        rows=[make_net_row(net) for net in study.nets],
        has_plain_net=any(not net.is_residual for net in study.nets),
        is_interpolated=any(not path.sampled for net in study.nets for path in net.paths),
        diagrams=[(net.label, render_network_diagram(plan(net.network))) for net in study.nets],
    )


def make_net_row(net: NetworkLesionResult) -> list[str]:
    """A net's row in the page's table, as the text of each cell; errors are in percent.

    The cells are: label; number of units; error of the intact net; median and worst error without
    one unit; median error without one of the units that change the shape; error without two random
    units.
    """
    shape_changing_errors = get_shape_changing_errors(net)
    return [
        net.label,
        str(len(net.units)),
        format_percent_number(net.error),
        format_percent_number(net.median_deletion_error),
        format_percent_number(net.worst_deletion.error),
        format_percent_number(median(shape_changing_errors) if shape_changing_errors else None),
        format_error_after_deletions(net, 2),
    ]


def format_error_after_deletions(net: NetworkLesionResult, deleted_count: int) -> str:
    """The error and its sd in percent after `deleted_count` random deletions.

    Returns a dash if that number of deletions was not measured.
    """
    for many in net.thinned:
        if many.deleted == deleted_count:
            return format_percent_number_with_sd(many.error, many.error_sd)
    return NO_VALUE
