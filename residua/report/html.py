"""HTML pages from templates: each is one self-contained file, with the style of `templates/base.html.j2`."""

from pathlib import Path


def render_template(template: str, **values: object) -> str:
    """A page of `templates/`, as text; what it is given is escaped, unless the template says `safe`."""
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
