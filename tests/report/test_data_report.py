"""The page of a checked photo data set."""

import re

import pytest

from residua.report.data_report import PROBLEM_MEANINGS, render_data_report
from tests.browser import assert_page_fits, needs_chromium

PIXEL_URI = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PROBLEMS = [
    {"path": f"train/cat/{'x' * 80}{i}.png", "kind": kind, "detail": "is <i>wrong</i>"}
    for i, kind in enumerate(PROBLEM_MEANINGS)
]
CHECK_RESULT = {
    "data": "/home/me/" + "long" * 40,
    "images": 1234,
    "classes": {"cat": {"train": 900, "test": 300}, "<b>": {"train": 30, "test": 4}},
    "width": [10, 300, 9000],
    "height": [200, 200, 200],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.2, 0.2, 0.2],
    "problems": PROBLEMS,
}


def test_the_page_lists_the_worst_problems_first_and_shows_pictures():
    html = render_data_report(
        CHECK_RESULT, {PROBLEMS[0]["path"]: PIXEL_URI, "train/cat/a.png": PIXEL_URI}
    )
    count = len(PROBLEM_MEANINGS)
    assert f"1,234 images of 2 classes can be decoded; {count} problems: " in html
    first_kinds = ": leakage (1), two classes (1), missing (1), unreadable (1)"
    assert f"{first_kinds} and {count - 4} more kinds." in html
    assert (
        html.index("leakage <span>")
        < html.index("duplicate <span>")
        < html.index("odd name <span>")
    )
    assert html.count(PIXEL_URI) == 3  # one next to the problem, two with the class
    assert "10 to 9,000 pixels, median 300" in html
    assert "<dd>200 pixels</dd>" in html
    assert "<i>wrong" not in html
    assert "<b>" not in html
    assert not re.search(r"https?://", html)


def test_a_page_without_problems_says_so():
    assert "; no problems were found." in render_data_report(CHECK_RESULT | {"problems": []}, {})


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_its_window(tmp_path, width):
    assert_page_fits(render_data_report(CHECK_RESULT, {}), width, tmp_path)
