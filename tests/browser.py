"""Loads pages in headless Chromium."""

import os
import re
import shutil
import subprocess
from html import escape

import pytest

CHROMIUM = shutil.which("chromium")
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--enable-logging=stderr",
)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def load_in_chromium(url, folder, *options):
    """The HTML of a page after its scripts have run; fails if the page writes to the console.

    Chromium keeps its profile in `folder`.
    """
    process = subprocess.run(
        [
            str(CHROMIUM),
            *CHROMIUM_OPTIONS,
            f"--user-data-dir={folder / 'profile'}",
            *options,
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"HOME": str(folder)},
    )
    assert "CONSOLE" not in process.stderr, process.stderr
    return process.stdout


def assert_page_fits(html, width, folder, setup_script="", result_script="''"):
    """Load a page at `width` pixels and fail if it is wider than its window.

    Runs `setup_script` and returns the value of the expression `result_script` as text.  Scripts
    can use `page` (the document), `root` (its root element) and `view` (its window).  The page is
    shown in a frame, because a headless window is never narrower than 500 pixels.
    """
    onload_script = f"""
      const page = this.contentDocument, root = page.documentElement, view = this.contentWindow;
      {setup_script}
      const widths = [root.scrollWidth, root.clientWidth, view.innerWidth];
      document.title = [...widths, {result_script}].join('|');"""
    frame = (
        f'<iframe width="{width}" height="800" style="border: 0" '
        f'srcdoc="{escape(html)}" onload="{escape(onload_script)}"></iframe>'
    )
    (folder / "frame.html").write_text(f"<!DOCTYPE html>{frame}")
    document = load_in_chromium((folder / "frame.html").as_uri(), folder)
    title = re.search(r"<title>(\d+)\|(\d+)\|(\d+)\|(.*?)</title>", document)
    assert title, document[:500]
    content_width, client_width, window_width = map(int, title.groups()[:3])
    assert window_width == width
    assert content_width <= client_width <= window_width
    return title[4]
