"""Pages as headless Chromium shows them."""

import os
import re
import shutil
import subprocess
from html import escape

import pytest

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--enable-logging=stderr",
)  # fmt: skip

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def shown(address, folder, *options):
    """The document of a page once its scripts have run; its console must have nothing to say.  `folder` takes the profile."""
    done = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, "--dump-dom", address],
        capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    return done.stdout


def fitting(html, width, folder, before="", found="''"):
    """The value of the script `found` in a page of that width, after `before`; the page must be no wider than its window.

    In a frame, because a headless window is never narrower than 500 pixels; scripts know its `page`, `root` and `view`.
    """
    script = f"""const page = this.contentDocument, root = page.documentElement, view = this.contentWindow;
      {before}
      document.title = [root.scrollWidth, root.clientWidth, view.innerWidth, {found}].join('|');"""
    frame = f'<iframe width="{width}" height="800" style="border: 0" srcdoc="{escape(html)}" onload="{escape(script)}"></iframe>'
    (folder / "frame.html").write_text(f"<!DOCTYPE html>{frame}")
    document = shown((folder / "frame.html").as_uri(), folder)
    title = re.search(r"<title>(\d+)\|(\d+)\|(\d+)\|(.*?)</title>", document)
    assert title, document[:500]
    content, room, window = map(int, title.groups()[:3])
    assert window == width
    assert content <= room <= window
    return title[4]
