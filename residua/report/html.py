"""HTML pages from the templates in `templates/`.

Each page is one self-contained file: style and figures are embedded, and the page loads no other
file.  `templates/base.html.j2` holds the style that all pages share.
"""

from pathlib import Path

REPORT_PAGE = "report.html"
"""The file name of the page of a study, of a lesion study, or of a network's signals."""


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
