"""Pages as headless Chromium shows them."""

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
    """The document of a page once its scripts have run; its console must have nothing to say.  `folder` takes the profile."""
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
    assert "CONSOLE" not in process.stderr
    return process.stdout


def assert_page_fits(html, width, folder, setup_script="", result_script="''"):
    """The value of the script `found` in a page of that width, after `before`; the page must be no wider than its window.

    In a frame, because a headless window is never narrower than 500 pixels; scripts know its `page`, `root` and `view`.
    """
    onload_script = f"""const page = this.contentDocument, root = page.documentElement, view = this.contentWindow;
      {setup_script}
      document.title = [root.scrollWidth, root.clientWidth, view.innerWidth, {result_script}].join('|');"""
    frame = f'<iframe width="{width}" height="800" style="border: 0" srcdoc="{escape(html)}" onload="{escape(onload_script)}"></iframe>'
    (folder / "frame.html").write_text(f"<!DOCTYPE html>{frame}")
    document = load_in_chromium((folder / "frame.html").as_uri(), folder)
    title = re.search(r"<title>(\d+)\|(\d+)\|(\d+)\|(.*?)</title>", document)
    assert title, document[:500]
    content_width, client_width, window_width = map(int, title.groups()[:3])
    assert window_width == width
    assert content_width <= client_width <= window_width
    return title[4]
