"""How Sphinx builds the documentation: `scripts/docs`.

The source directory is the root of the repository, so that the links of the Markdown files to
records, figures and code are the same in the site and on a code host.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from residua.version import __version__  # noqa: E402

project, author, version, release = "residua", "the authors of residua", __version__, __version__
project_copyright = "the authors of residua"
extensions = ["myst_parser", "sphinx.ext.autodoc", "generator"]

root_doc = "docs/index"
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
include_patterns = [
    "docs/**.md",
    "docs/**.ipynb",
    "experiments/**.md",
    "benchmarks/**.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and path.name not in ("docs", "experiments", "benchmarks")
]

# With the address of the repository's files, links to code and records lead there; otherwise the
# site holds copies.
repository_url = os.environ.get("RESIDUA_REPOSITORY_URL", "")

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
# blocks `text` of a result and of a directive's name are no code
highlight_language = "text"
smartquotes = False  # they would turn -- of options into a dash

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = f"residua {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
