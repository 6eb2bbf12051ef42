"""The extension of Sphinx that builds residua's documentation.

docstrings  the docstrings' layout, and whether every public name has one
program     reference pages from the program: commands, recipes, networks, packages
links       links to files of the repository that are no pages
notebooks   notebooks as pages, with the outputs of their cells
"""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from generator import docstrings, links, notebooks, program


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository_url", "", "env")
    app.add_config_value("run_notebooks", True, "env", bool)
    app.connect("source-read", make_page_source)
    app.connect("autodoc-process-docstring", docstrings.convert_docstring)
    app.connect("autodoc-process-signature", docstrings.shorten_signature)
    app.connect("env-check-consistency", docstrings.require_complete_reference)
    app.add_transform(links.RepositoryLinks)
    app.connect("build-finished", links.finish_site)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


SUBPAGES = {"experiments/README": "*/README", "benchmarks/README": "*_*"}
"""The pages below a page whose Markdown has no list for Sphinx."""


def make_page_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace a notebook by Markdown, and the blocks `{generated} NAME` of a page by their text."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".ipynb":
        cache = Path(app.doctreedir) / "notebooks" if app.config.run_notebooks else None
        source[0] = notebooks.make_page(path, cache)
    source[0] = program.fill_in(source[0])
    if page in SUBPAGES:
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{SUBPAGES[page]}\n```\n"
