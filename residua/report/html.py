"""HTML pages from the templates in `templates/`.

Each page is one self-contained file: style and figures are embedded, and the page loads no other
file.  `templates/base.html.j2` holds the style that all pages share, and `macros.html.j2` their
parts: headline, figure, command, downloads.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from residua.report.figures import add_white_background

REPORT_PAGE = "report.html"
"""The file name of the page of a study, a run, a lesion study, or a network's signals."""


def render_template(template: str, **values: object) -> str:
    """Render a file in `templates/` to HTML; values are escaped unless the template says `safe`.

    Raises jinja2.UndefinedError if the template uses a value that is not passed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text: str = environment.get_template(template).render(**values)
    return text


class Download(NamedTuple):
    """A file that a page holds in itself, and that its reader can save."""

    name: str
    label: str
    url: str


def make_download(name: str, content: str) -> Download:
    """Make a file that the reader of a page can save, from its text; the label is its suffix.

    `name` ends in `.svg`, `.json` or `.csv`.
    """
    suffix = name.rpartition(".")[2]
    media_type = {"svg": "image/svg+xml", "json": "application/json", "csv": "text/csv"}[suffix]
    encoded = b64encode(content.encode()).decode()
    return Download(name, suffix.upper(), f"data:{media_type};base64,{encoded}")


def make_figure_downloads(figure_svgs: Mapping[str, Sequence[str]]) -> dict[str, Download]:
    """Make a file of each figure, by its name, from its (wide, narrow) SVGs."""
    return {
        name: make_download(f"{name}.svg", add_white_background(svgs[0]))
        for name, svgs in figure_svgs.items()
    }
