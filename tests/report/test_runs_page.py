import json
import re

import pytest

from residua.config.evaluation_results import wilson_interval
from residua.errors import RecordError, UsageError
from residua.files import try_lock_folder
from residua.report.listed_runs import list_runs
from residua.report.run_settings import list_differing_settings
from residua.report.runs_figure import MAX_DRAWN_RUNS, read_curves_by_data
from residua.report.runs_page import (
    PAGE_MARK,
    choose_best_runs,
    describe_first_best_run,
    make_sort_key,
    number_runs,
    write_runs_page,
)
from residua.study_records import pack_runs
from tests.browser import assert_page_fits, load_in_chromium, needs_chromium
from tests.report.fake_records import RECIPE, write_run_record, write_study_records

COUNTS = {"test_images": 359, "dev_images": 150}


def write_dev_curve(folder, errors, **changes):
    """Replace the metrics of a run by dev errors after each of the first epochs."""
    rows = [
        {"step": 20 * epoch, "epoch": epoch, "dev_error": error, "seconds": float(epoch)} | changes
        for epoch, error in enumerate(errors, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run_folder(tmp_path):
    """A folder with runs in every state, and what is no run."""
    root = tmp_path / "runs"
    for name, error, rate in (("a", 0.2, 0.1), ("b/deep", 0.1, 0.02)):
        recipe = RECIPE | {"schedule": RECIPE["schedule"] | {"lr": rate}}
        write_run_record(
            root / name, "cifar-resnet20", 0.01, error, extra_result=COUNTS, recipe=recipe
        )
        write_dev_curve(root / name, [0.9, error * 2, error])
    write_run_record(root / "half", "cifar-resnet20", 0.1, 0.2, finished=False)
    write_dev_curve(root / "half", [0.9, 0.5])
    write_run_record(root / "busy", "cifar-resnet20", 0.1, 0.2, finished=False, seed=3)
    (root / "busy" / "metrics.jsonl").unlink()
    write_run_record(root / "torn", "cifar-resnet20", 0.1, 0.2)
    (root / "torn" / "run.json").write_text('{"format": 1, "run"')
    (root / "notes").mkdir()
    (root / "notes" / "note.txt").write_text("x")
    return root


def list_by_name(folder):
    runs, skipped = list_runs(folder)
    return {run.name: run for run in runs}, {place.name: place.why for place in skipped}


def write_page(folder):
    return write_runs_page(*list_runs(folder), folder, folder / "index.html").read_text()


def test_each_run_is_listed_in_its_state(run_folder):
    with try_lock_folder(run_folder / "busy"):
        runs, skipped = list_by_name(run_folder)
    assert {name: (run.state, run.step, run.total_steps) for name, run in runs.items()} == {
        "a": ("finished", 200, 200),
        "b/deep": ("finished", 200, 200),
        "half": ("unfinished", 40, 200),  # 10 epochs of 20 steps
        "busy": ("being trained", None, None),
    }
    assert list_by_name(run_folder)[0]["busy"].state == "unfinished"
    assert skipped.keys() == {"torn", "notes"}
    assert "torn/run.json is damaged" in skipped["torn"]
    assert skipped["notes"] == "it contains no run"


def test_a_lock_that_a_killed_process_left_is_no_training(run_folder):
    (run_folder / "busy" / ".lock").write_text("")
    assert list_by_name(run_folder)[0]["busy"].state == "unfinished"
    with try_lock_folder(run_folder / "busy") as has_lock:
        assert has_lock


@pytest.mark.parametrize(
    "change",
    [
        {"run": {}},
        {"run": {"network": [], "dataset": "d", "recipe": {}, "seed": 0}},
        {"run": {"network": {"name": "n"}, "dataset": "d", "recipe": {"name": "r"}, "seed": "x"}},
        {"result": {"test_error": 7}},
        {"result": {"test_error": "low"}},
        {"format": 99},
    ],
    ids=str,
)
def test_a_record_of_another_form_is_skipped_and_named(run_folder, change):
    path = run_folder / "a" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    runs, skipped = list_by_name(run_folder)
    assert "a" not in runs
    assert str(path) in skipped["a"]


def test_runs_of_a_study_count_in_folders_and_packed(tmp_path):
    study = write_study_records(tmp_path / "s", {"cifar-resnet20": [(0.1, 0.2), (0.1, 0.3)]})
    in_folders = list_by_name(tmp_path)[0]
    assert in_folders.keys() == {"s/runs/cifar-resnet20-seed0", "s/runs/cifar-resnet20-seed1"}
    pack_runs(study)
    packed = list_by_name(tmp_path)[0]
    assert packed.keys() == {"s/cifar-resnet20-seed0", "s/cifar-resnet20-seed1"}
    assert [run.test_error for run in packed.values()] == [0.2, 0.3]
    assert list_by_name(study)[0].keys() == {"cifar-resnet20-seed0", "cifar-resnet20-seed1"}
    (study / "runs.jsonl").write_text("{")
    assert list_by_name(tmp_path)[1].keys() == {"s/runs.jsonl"}


def test_links_in_a_circle_end(run_folder):
    (run_folder / "b" / "up").symlink_to(run_folder)
    assert list_by_name(run_folder)[0].keys() == {"a", "b/deep", "half", "busy"}


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="there is no folder .*: give the folder"):
        list_runs(tmp_path / "none")


def test_only_settings_that_differ_are_listed(run_folder):
    runs, _ = list_by_name(run_folder)
    pair = [runs["a"].settings, runs["b/deep"].settings]
    assert list_differing_settings(pair) == ["schedule.lr"]
    assert [settings["schedule.lr"] for settings in pair] == ["0.1", "0.02"]
    assert "seed" in list_differing_settings([run.settings for run in runs.values()])
    assert list_differing_settings(pair[:1]) == []


def test_the_best_run_is_chosen_by_its_dev_error(run_folder):
    path = run_folder / "a" / "run.json"
    content = json.loads(path.read_text())
    content["result"] |= {"dev_error": 0.3, "test_error": 0.0}
    path.write_text(json.dumps(content))
    runs, _ = list_runs(run_folder)
    numbers = {id(run): number for number, run in number_runs(runs).items()}
    first = describe_first_best_run(choose_best_runs(runs), numbers)
    low, high = wilson_interval(359 - 36, 359)
    assert first["number"] == "90.0\N{NO-BREAK SPACE}%"
    assert (
        first["label"]
        .replace("\N{NO-BREAK SPACE}", " ")
        .endswith(f"95 % CI {100 * low:.1f}–{100 * high:.1f} %")
    )
    assert first["lead"].startswith("Run 1, cifar-resnet20, has the lowest dev error of 2 finished")
    alone = describe_first_best_run(choose_best_runs(runs[:1]), numbers)
    assert "is the only finished run on " in alone["lead"]
    assert describe_first_best_run([], {})["lead"] == "No run is finished yet."


def test_folders_of_other_outputs_are_not_missed(run_folder):
    for name in ("check-photos/check.json", "rated/evaluation.json", "seen/signals.json"):
        (run_folder / name).parent.mkdir()
        (run_folder / name).write_text("{}")
    (run_folder / "cut").mkdir()
    (run_folder / "cut" / "results.json").write_text('{"kind": "lesion"}')
    (run_folder / "study").mkdir()
    (run_folder / "study" / "study.json").write_text("{}")
    _, skipped = list_by_name(run_folder)
    assert skipped.keys() == {"torn", "notes", "study"}
    assert skipped["study"] == "no run of this study has started"


def test_a_duration_that_is_not_set_has_no_value_among_the_settings(tmp_path):
    for name, duration in (("a", {"steps": 60, "epochs": 0}), ("b", {"steps": 0, "epochs": 3.0})):
        write_run_record(
            tmp_path / name,
            "cifar-resnet20",
            0.1,
            0.2,
            extra_result=COUNTS,
            recipe=RECIPE | duration,
        )
    settings = {name: run.settings for name, run in list_by_name(tmp_path)[0].items()}
    assert [(s.get("steps"), s.get("epochs")) for s in (settings["a"], settings["b"])] == [
        ("60", None),
        (None, "3"),
    ]
    html = write_page(tmp_path)
    assert '<td data-key="" class="text">–</td>' in html


def test_the_page_names_all_runs_and_what_is_not_listed(run_folder):
    html = write_page(run_folder)
    for text in (">a<", "b/deep", "unfinished, step 40 of 200", "notes: it contains no run"):
        assert text in html
    assert html.count('class="curves wide"') == 1
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", html)


def test_a_run_is_linked_to_its_report(run_folder):
    for name in ("a", "b/deep"):
        (run_folder / name / "report.html").write_text("x")
    html = write_page(run_folder)
    links = re.findall(r'<a href="([^"]+)">', html)
    assert sorted(links) == ["a/report.html", "b/deep/report.html"]


def test_a_name_is_text_on_the_page_and_never_markup(tmp_path):
    name = "<img src=x onerror=alert(1)>&\"'\x1b[1m"
    folder = tmp_path / "runs" / name
    write_run_record(folder, "cifar-resnet20", 0.01, 0.1, extra_result=COUNTS, dataset="<b>d</b>")
    write_dev_curve(folder, [0.9, 0.1])
    (folder / "report.html").write_text("x")
    html = write_page(tmp_path / "runs")
    assert "<img" not in html
    assert "<b>d" not in html
    assert "\x1b" not in html
    assert 'href="%3Cimg%20src' in html


def test_a_page_of_others_is_never_replaced(run_folder):
    page = run_folder / "index.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(
        UsageError, match="was not written by the command residua runs, so it is not"
    ):
        write_page(run_folder)
    assert page.read_text() == "<html>mine</html>"
    page.write_text(PAGE_MARK)
    assert "b/deep" in write_page(run_folder)


def test_the_newest_curves_are_drawn_if_there_are_many(run_folder):
    runs, _ = list_by_name(run_folder)
    many = dict(enumerate([runs["a"]] * MAX_DRAWN_RUNS + [runs["b/deep"]], 1))
    [curves] = read_curves_by_data(many).values()
    assert len(curves) == MAX_DRAWN_RUNS
    assert curves[-1].number == MAX_DRAWN_RUNS + 1


def test_damaged_metrics_leave_a_run_without_a_curve(run_folder):
    (run_folder / "a" / "metrics.jsonl").write_text("{\n")
    runs, _ = list_runs(run_folder)
    [curves] = read_curves_by_data(number_runs(runs)).values()
    assert {curve.run.name for curve in curves} == {"b/deep", "half"}


def test_numbers_are_sorted_as_numbers():
    assert make_sort_key("10") > make_sort_key("9")
    assert [make_sort_key(text) for text in ("nan", "inf", "yes", "")] == ["nan", "inf", "yes", ""]


@needs_chromium
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_fits_the_screen(run_folder, tmp_path, width):
    assert_page_fits(write_page(run_folder), width, tmp_path)


@needs_chromium
def test_a_click_or_a_key_sorts_the_table_and_missing_values_stay_last(run_folder, tmp_path):
    html = write_page(run_folder)
    script = """<script>
      const names = () => [...document.querySelectorAll("tbody")[0].rows].map(
        (row) => row.cells[1].textContent).join(" ");
      const button = document.querySelectorAll("thead")[0].querySelectorAll("button")[3];
      button.focus();
      const states = [document.activeElement === button];
      for (let i = 0; i < 2; i++) {
        button.click();
        states.push(button.parentElement.getAttribute("aria-sort"), names());
      }
      document.title = states.join("|");
    </script></body>"""
    (tmp_path / "page.html").write_text(html.replace("</body>", script))
    document = load_in_chromium((tmp_path / "page.html").as_uri(), tmp_path)
    focused, up, ascending, down, descending = re.search(r"<title>(.*?)</title>", document)[
        1
    ].split("|")
    assert (focused, up, down) == ("true", "ascending", "descending")
    assert ascending.split()[:2] == ["a", "b/deep"]  # 80 and 90 % right
    assert descending.split()[:2] == ["b/deep", "a"]
