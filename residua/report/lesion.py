"""The report of a lesion study: an HTML page, its figures, and `results.json`."""

from pathlib import Path

from residua.bounded_json import read_json
from residua.config.lesion_results import LesionStudyResult, NetworkLesionResult
from residua.config.plan import plan
from residua.config.serialize import Json, from_json, to_json
from residua.errors import DamagedRecordError, RecordError, ResiduaError, UsageError
from residua.files import holds_visible_entries, render_json, write_text_files
from residua.record_checks import read_json_record
from residua.report.figures import inline_figures, make_figure_files, map_figure_colors_to_dark
from residua.report.format import (
    format_percent_number,
    join_with_and,
    make_percent_nonbreaking,
)
from residua.report.html import (
    REPORT_PAGE,
    make_download,
    make_figure_downloads,
    render_template,
)
from residua.report.lesion_figures import LESION_FIGURE_TITLES, render_lesion_figures
from residua.report.lesion_summary import (
    compute_error_spread,
    describe_lesion_answer,
    describe_lesion_study,
)
from residua.report.network_diagram import render_network_diagram
from residua.spreadsheet_cells import format_csv

LESION_RECORD = "results.json"
LESION_TABLE = "lesion.csv"


def check_lesion_output_folder(folder: Path) -> None:
    """Raise UsageError if `folder` is a file, or a non-empty folder without a lesion study."""
    is_free = not folder.exists() or (folder.is_dir() and not holds_visible_entries(folder))
    if not is_free and not holds_lesion_study(folder):
        raise UsageError(
            f"{folder} is not empty and contains no lesion study: choose another --out"
        )


def holds_lesion_study(folder: Path) -> bool:
    """Return whether `folder` has the `results.json` of a lesion study, in any format version."""
    try:
        content = read_json(folder / LESION_RECORD)
    except RecordError:
        return False
    return isinstance(content, dict) and content.get("kind") == "lesion"


def make_lesion_json(study: LesionStudyResult) -> dict[str, Json]:
    """Make the content of `results.json`: the study's data, and its findings under `verdict`.

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
    record = render_json(make_lesion_json(study))
    page = render_lesion_page(study, figure_svgs)
    write_text_files(
        folder, make_figure_files(figure_svgs) | {LESION_RECORD: record, REPORT_PAGE: page}
    )
    return folder / REPORT_PAGE


def render_lesion_page(study: LesionStudyResult, figure_svgs: dict[str, tuple[str, str]]) -> str:
    """Render the page of a lesion study as HTML, with style, script and figures embedded."""
    colors = map_figure_colors_to_dark(1)
    _, *findings, standard_error = map(make_percent_nonbreaking, describe_lesion_study(study))
    net_labels = join_with_and([net.label for net in study.nets])
    images = f"{study.images:,} {study.split} images of {study.dataset}"
    return render_template(
        "lesion.html.j2",
        title="What does removing a unit cost?",
        subject=f"{net_labels} on {images}",
        lead=make_percent_nonbreaking(describe_lesion_answer(study)),
        findings=[finding.split(": ", 1) for finding in findings],
        standard_error=standard_error,
        figures=inline_figures(figure_svgs, LESION_FIGURE_TITLES, colors),
        files=make_figure_downloads(figure_svgs),
        table=make_download(LESION_TABLE, make_lesion_table(study)),
        inks=colors,
        study=study,
        rows=[make_net_row(net) for net in study.nets],
        has_plain_net=any(not net.is_residual for net in study.nets),
        has_range=any(many.error_range for net in study.nets for many in net.thinned),
        is_interpolated=any(not path.sampled for net in study.nets for path in net.paths),
        diagrams=[(net.label, render_network_diagram(plan(net.network))) for net in study.nets],
    )


def make_net_row(net: NetworkLesionResult) -> list[str]:
    """Make a net's row in the page's table, as the text of each cell; errors are in percent.

    The cells are: label; error of the intact net; median error without one unit; error without the
    worst unit; the name of that unit.
    """
    return [
        net.label,
        format_percent_number(net.error),
        format_percent_number(net.median_deletion_error),
        format_percent_number(net.worst_deletion.error),
        net.worst_deletion.name,
    ]


def make_lesion_table(study: LesionStudyResult) -> str:
    """Format all errors of a study as CSV: one line per net and per unit, deletion or swap."""
    rows: list[tuple[object, ...]] = [("net", "change", "unit_or_count", "error", "lower", "upper")]
    for net in study.nets:
        rows.append((net.label, "intact", "", net.error, "", ""))
        rows += [(net.label, "one deleted", unit.name, unit.error, "", "") for unit in net.units]
        for many in net.thinned:
            spread = compute_error_spread(many) or ("", "")
            rows.append((net.label, "random deleted", many.deleted, many.error, *spread))
        for swap in net.swapped:
            spread = compute_error_spread(swap) or ("", "")
            rows.append((net.label, "random swaps", swap.swaps, swap.error, *spread))
    return format_csv(rows)
