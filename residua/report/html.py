"""HTML pages from the templates in `templates/`.

Each page is one self-contained file: style and figures are inside, and nothing is fetched.
`templates/base.html.j2` holds the style that all pages share.
"""

from pathlib import Path

REPORT_PAGE = "report.html"
"""The file name of every report in its folder."""


def render_template(template: str, **values: object) -> str:
    """The HTML of a file in `templates/`; values are escaped unless the template says `safe`.

    A value that the template uses but does not get raises jinja2.UndefinedError.
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
