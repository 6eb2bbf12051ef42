"""The page of a checked folder."""

import os
import re
import shutil
import subprocess
from html import escape

import pytest

from residua.report.check import MEANING, page

CHROMIUM = shutil.which("chromium")
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PROBLEMS = [{"path": f"train/cat/{'x' * 80}{i}.png", "kind": kind, "detail": "is <i>wrong</i>"} for i, kind in enumerate(MEANING)]
FACTS = {
    "data": "/home/me/" + "long" * 40,
    "images": 1234,
    "classes": {"cat": {"train": 900, "test": 300}, "<b>": {"train": 30, "test": 4}},
    "width": [10, 300, 9000],
    "height": [200, 200, 200],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.2, 0.2, 0.2],
    "problems": PROBLEMS,
}


def test_the_page_says_the_worst_first_and_shows_pictures():
    html = page(FACTS, {PROBLEMS[0]["path"]: PIXEL, "train/cat/a.png": PIXEL})
    assert "1,234 images of 2 classes can be decoded; 24 problems: leakage (1), two classes (1), missing (1)" in html
    assert html.index("leakage <span>") < html.index("duplicate <span>") < html.index("odd name <span>")
    assert html.count(PIXEL) == 3  # beside the problem, and with the class
    assert "10 to 9,000 pixels, half of them up to 300" in html
    assert "<dd>200 pixels</dd>" in html
    assert "<i>wrong" not in html
    assert "<b>" not in html
    assert not re.search(r"https?://", html)


def test_a_page_without_problems_says_so():
    assert "and nothing is wrong." in page(FACTS | {"problems": []}, {})


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(tmp_path, width):
    """Measured in a frame, because a headless window is never narrower than 500 pixels."""
    measure = "[root.scrollWidth, root.clientWidth, this.contentWindow.innerWidth].join(' ')"
    frame = f'<iframe width="{width}" height="800" style="border: 0" srcdoc="{escape(page(FACTS, {}))}"'
    copy = tmp_path / "frame.html"
    copy.write_text(
        f'<!DOCTYPE html>{frame} onload="const root = this.contentDocument.documentElement; document.title = {measure}"></iframe>'
    )
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    dump = subprocess.run(
        [str(CHROMIUM), *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True, env=os.environ | {"HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dump)
    assert found, dump[:500]
    content, room, window = map(int, found.groups())
    assert window == width
    assert content <= room <= window
