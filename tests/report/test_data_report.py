"""The page of a checked photo data set."""

import re
from html import unescape

import pytest

from residua.data.check import count_sizes
from residua.report.data_bars import (
    describe_class_balance,
    make_class_bars,
    make_shape_bars,
    make_side_bars,
)
from residua.report.data_report import PROBLEM_MEANINGS, UnderstoodData, render_data_report
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
    names = (PROBLEMS[0]["path"], "train/<b>/a.png")  # the table of the data may call both cats
    html = render_data_report(
        CHECK_RESULT,
        dict.fromkeys(names, PIXEL_URI),
        UnderstoodData(class_by_image=dict.fromkeys(names, "cat")),
    )
    count = len(PROBLEM_MEANINGS)
    assert f'<p class="number">{count} problems<small>1,234 images of 2 classes' in html
    first_kinds = "The worst first: leakage (1), split group (1), two classes (1), missing (1)"
    assert f"{first_kinds} and {count - 4} more kinds." in html
    assert (
        html.index("What was understood")
        < html.index("leakage <span>")
        < html.index("duplicate <span>")
        < html.index("odd name <span>")
    )
    assert html.count(PIXEL_URI) == 3  # one next to the problem, two with the class
    assert "10 to 9,000 pixels, median 300" in html
    assert "<dd>200 pixels</dd>" in html
    [cat, other] = re.findall(r'<div class="pictures">(.*?)</div>', html)
    assert (cat.count(PIXEL_URI), other) == (2, "")
    assert "<i>wrong" not in html
    assert "<b>" not in html
    assert not re.search(r"https?://", html)


def test_a_page_without_problems_says_so():
    html = render_data_report(CHECK_RESULT | {"problems": []}, {})
    assert "No problems<small>" in html
    assert "none is damaged or a duplicate" in html


def test_what_was_understood_and_the_commands_are_on_the_page():
    facts = CHECK_RESULT | {
        "splits": {"train": 1000, "dev": 200, "test": 34},
        "skipped": {"truncated": 3, "empty": 1},
    }
    commands = ["residua data check 'my photos' --fix a.csv", "residua train a.csv"]
    understood = UnderstoodData("by the folders' names", ["x is left out", "y, too"], commands)
    text = unescape(render_data_report(facts, {}, understood))
    for part in (
        "<dd>2: cat, <b></dd>",
        "<dd>1,000 train, 200 dev, 34 test, by the folders' names</dd>",
        "<dd>3 truncated, 1 empty</dd>",
        "<dd>x is left out; y, too</dd>",
        *(f'<div class="command"><code>{command}</code></div>' for command in commands),
    ):
        assert part in text


def test_duplicates_are_side_by_side_with_their_originals():
    problems = [
        {"path": "a.png", "kind": "duplicate", "detail": "is the same file as b.png"},
        {"path": "a.png", "kind": "odd name", "detail": "has a name"},
    ]
    facts = CHECK_RESULT | {
        "problems": problems,
        "duplicates": [{"path": "a.png", "original": "b.png"}],
    }
    html = render_data_report(facts, {"a.png": "data:A", "b.png": "data:B"})
    [pair] = re.findall(r"<li><div><figure>.*?</li>", html, re.DOTALL)
    assert re.findall(r'src="(.*?)"', pair) == ["data:A", "data:B"]
    assert re.findall(r"<code[^>]*>(.*?)</code>", pair) == ["a.png", "b.png"]
    assert "The first is the same file as b.png." in pair
    assert html.count("data:A") == 2


def test_of_many_problems_of_a_kind_the_first_are_shown_and_all_are_counted():
    problems = [{"path": f"{i}.png", "kind": "empty", "detail": "is"} for i in range(250)]
    html = render_data_report(CHECK_RESULT | {"problems": problems}, {})
    assert "empty <span>250</span>" in html
    assert "The first 200 are shown; check.json has all." in html
    assert "199.png" in html
    assert "200.png" not in html


def test_the_bars_of_classes_are_as_long_as_their_numbers():
    bars = make_class_bars({"cat": {"train": 900, "test": 300}, "dog": {"train": 30}}, {}, {})
    assert [(bar.images, bar.counts, bar.shares) for bar in bars] == [
        ("1,200", ["900", "300"], [75.0, 25.0]),
        ("30", ["30", "0"], [2.5, 0.0]),
    ]
    assert describe_class_balance({"cat": {"images": 90}, "dog": {"images": 30}}) == (
        "The largest class, cat, has 90 images, the smallest, dog, 30: 3.0 times as many."
    )
    assert describe_class_balance({"cat": {"images": 9}, "dog": {"images": 9}}) == (
        "All classes have 9 images."
    )
    assert describe_class_balance({"cat": {"train": 9}, "dog": {"train": 0}}).endswith(", dog, 0.")
    assert describe_class_balance({"cat": {"train": 9}}) == ""


def test_the_bars_of_sizes_are_doublings_of_the_shorter_side():
    sizes = count_sizes([(640, 480), (480, 640), (224, 224), (255, 300), (64, 64)])
    facts = {"sizes": sizes}
    assert [(bar.label, bar.images, bar.share) for bar in make_side_bars(facts)] == [
        ("64 to 127", "1", 50.0),
        ("128 to 255", "2", 100.0),
        ("256 to 511", "2", 100.0),
    ]
    shapes = [(bar.label, bar.images) for bar in make_shape_bars(facts)]
    assert shapes == [("portrait", "2"), ("square", "2"), ("landscape", "1")]
    assert sizes["distinct"] == 5
    assert make_side_bars({"sizes": count_sizes([])}) == []
    assert make_side_bars({}) == []


def test_the_name_of_a_class_breaks_after_an_underscore_and_is_escaped():
    classes = {"cassette_<b>_player": {"images": 9}, "dog": {"images": 9}}
    html = render_data_report(CHECK_RESULT | {"classes": classes}, {})
    assert '<th scope="row">cassette_<wbr>&lt;b&gt;_<wbr>player</th>' in html


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("width", "hidden"), [(390, True), (1280, False)])
def test_a_table_of_classes_scrolls_only_on_a_phone_and_then_has_a_shadow(tmp_path, width, hidden):
    """The covers of the shadows move with the table."""
    splits = {"train": 1000000, "dev": 1000000, "test": 1000000}
    html = render_data_report(CHECK_RESULT | {"classes": {"cassette_player": splits}}, {})
    script = """
      const box = page.querySelector('.scroll'), style = view.getComputedStyle(box);
      const found = [box.scrollWidth > box.clientWidth, style.backgroundAttachment];"""
    found = assert_page_fits(html, width, tmp_path, script, "found.join(';')")
    assert found == f"{str(hidden).lower()};local, local, scroll, scroll"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_its_window(tmp_path, width):
    assert_page_fits(render_data_report(CHECK_RESULT, {}), width, tmp_path)
