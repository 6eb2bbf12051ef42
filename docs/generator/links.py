"""Links to files of the repository that are no pages, and the links of the finished site."""

import posixpath
import shutil
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

REDIRECT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>residua</title>
<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">residua</a></html>
"""


class RepositoryLinks(SphinxTransform):
    """Lead links to files to the repository if its address is known, else to copies in the site.

    A copy has the path of the file.  A folder becomes its name if the address is not known.  A
    page in docs/figures is shown in a frame below the paragraph that links to it.
    """

    default_priority = 400

    def apply(self, **_: object) -> None:
        page = Path(self.env.doc2path(self.env.docname))
        root = Path(self.app.srcdir)
        for link in [*self.document.findall(addnodes.download_reference)]:
            self.replace(link, (page.parent / unquote(link["reftarget"])).resolve(), root)
        for link in [*self.document.findall(addnodes.pending_xref)]:
            target = (page.parent / unquote(link["reftarget"])).resolve()
            if link["reftype"] == "myst" and target.is_dir() and root in target.parents:
                self.replace(link, target, root)

    def replace(self, link: nodes.Element, target: Path, root: Path) -> None:
        path = target.relative_to(root).as_posix()
        url = self.config.repository_url
        if target.parent == root / "docs" / "figures" and target.suffix == ".html":
            source, title = escape(link["reftarget"]), escape(link.astext())
            frame = (
                f'<iframe class="figure" src="{source}" title="{title}" loading="lazy"></iframe>'
            )
            paragraph = link.parent
            while not isinstance(paragraph, nodes.paragraph):
                paragraph = paragraph.parent
            place = paragraph.parent.index(paragraph) + 1
            paragraph.parent.insert(place, nodes.raw("", frame, format="html"))
        content = [child.deepcopy() for child in link.children]
        if url:
            link.replace_self(nodes.reference("", "", *content, refuri=f"{url.rstrip('/')}/{path}"))
        elif target.is_dir():
            link.replace_self(
                [*content, nodes.Text(" ("), nodes.literal("", path), nodes.Text(")")]
            )
        else:
            folder = posixpath.dirname(self.env.docname)
            copy = nodes.reference("", "", *content, refuri=posixpath.relpath(path, folder or "."))
            copy["copied_file"] = path
            link.replace_self(copy)


def finish_site(app: Sphinx, error: Exception | None) -> None:
    """Copy the files that pages link to, and warn of each link that leads nowhere."""
    if error or app.builder.format != "html":
        return
    out, root = Path(app.outdir), Path(app.srcdir)
    linked = {
        link["copied_file"]
        for page in app.env.found_docs
        for link in app.env.get_doctree(page).findall(nodes.reference)
        if "copied_file" in link
    }
    figures = (root / "docs" / "figures").glob("**/*")
    for path in linked | {f.relative_to(root).as_posix() for f in figures if f.is_file()}:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, out / path)
    if app.config.root_doc != "index":
        (out / "index.html").write_text(REDIRECT.format(target=f"{app.config.root_doc}.html"))
    logger = logging.getLogger(__name__)
    for page, target in find_broken_links(out):
        logger.warning(f"{page} links to {target}, which the site does not have")


class LinkReader(HTMLParser):
    """Collects the targets and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def find_broken_links(site: Path) -> list[tuple[str, str]]:
    """The pages with relative links to a file or an anchor that does not exist, and the links."""
    pages = {path: LinkReader(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for page, reader in sorted(pages.items()):
        for target in sorted(reader.targets):
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            anchors = pages[path].anchors if path in pages else set()
            has_anchor = not url.fragment or path not in pages or unquote(url.fragment) in anchors
            if not path.exists() or not has_anchor:
                broken.append((page.relative_to(site).as_posix(), target))
    return broken
