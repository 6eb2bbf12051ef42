"""What `residua train` writes and prints when a run is finished."""

import json
import shlex

import pytest

from residua import report, training
from residua.cli.main import main
from residua.cli.training_outcome import describe_accuracy
from residua.config.dataset import get_dataset
from residua.config.evaluation_results import wilson_interval
from residua.errors import RecordError
from residua.record import RunRecord
from residua.report.format import quote_path
from tests.cli_runner import run_cli
from tests.data.faulty_photos import write_clean_folder

WRITES_RUN_PAGES = True

OPTIONS = ["--model", "cifar-resnet8", "--steps", "3", "--precision", "fp32"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The folder of a run, in a folder whose name has a space, and what was printed."""
    folder = tmp_path_factory.mktemp("my runs") / "run 1"
    assert main(["train", "digits", *OPTIONS, "--out", str(folder)]) == 0
    return folder


def test_a_finished_run_has_its_report_and_its_evaluation(capsys, finished_run):
    for page in ("report.html", "evaluation/evaluation.html"):
        assert "</html>" in (finished_run / page).read_text()
    before = (finished_run / "report.html").read_bytes()
    assert b'href="evaluation/evaluation.html"' in before
    assert run_cli(capsys, "report", finished_run)[0] == 0
    assert (finished_run / "report.html").read_bytes() == before


def test_the_commands_that_are_printed_can_be_copied(capsys, finished_run):
    code, out, _ = run_cli(capsys, "train", "digits", *OPTIONS, "--out", finished_run)
    assert code == 0
    headline = out.splitlines()[out.splitlines().index("") + 1]
    assert "% right on 359 test images, 95 % interval " in headline
    commands = [shlex.split(line) for line in out.partition("Next:\n")[2].splitlines()]
    assert [command[:3] for command in commands] == [
        ["residua", name, str(finished_run)] for name in ("serve", "report")
    ]
    for command in commands:
        if command[1] != "serve":
            assert run_cli(capsys, *command[1:])[0] == 0


def test_the_pages_of_a_finished_run_are_written_only_if_they_are_missing(capsys, finished_run):
    page = finished_run / "evaluation" / "evaluation.html"
    (finished_run / "report.html").write_text("old")
    page.unlink()
    command = ["train", "digits", *OPTIONS, "--out", finished_run, "--json"]
    facts = json.loads(run_cli(capsys, *command)[1])
    assert (facts["page"], facts["evaluation_page"]) == (
        str(finished_run / "report.html"),
        str(page),
    )
    assert page.exists()
    assert (finished_run / "report.html").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecordError("the photos are gone: look for them"), "the photos are gone: look for them"),
        (PermissionError(13, "Permission denied", "a/b"), "Permission denied: a/b"),
        (MemoryError(), "the memory is used up"),
        (KeyboardInterrupt(), "it was interrupted"),
    ],
)
def test_a_page_that_cannot_be_written_leaves_the_run_finished(
    capsys, tmp_path, monkeypatch, error, reason
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(report, "write_run_report", fail, raising=False)
    monkeypatch.setattr(training, "evaluate_finished_run", fail, raising=False)
    command = ["train", "digits", *OPTIONS, "--out", tmp_path / "run", "--json"]
    code, out, last_line = run_cli(capsys, *command)
    assert code == 0
    facts = json.loads(out)
    assert (facts["page"], facts["evaluation_page"], facts["trained"]) == (None, None, True)
    assert last_line.startswith(
        f"residua: the report of the run in {tmp_path / 'run'} was not written "
        f"(the run itself is complete): {reason}"
    )
    assert RunRecord(tmp_path / "run").read_result()


def test_the_commands_for_photos_name_their_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos, run = tmp_path / "my photos", tmp_path / "run"
    write_clean_folder(photos)
    code, out, _ = run_cli(capsys, "train", photos, *OPTIONS, "--size", "24", "--out", run)
    assert code == 0
    assert "% right on 15 test photos, 95 % interval " in out
    commands = [shlex.split(line) for line in out.partition("Next:\n")[2].splitlines()]
    assert commands == [
        ["residua", "serve", str(run)],
        ["residua", "predict", str(run), str(photos)],
    ]
    html = (run / "report.html").read_text()
    assert 'href="evaluation/evaluation.html"' in html
    assert "residua evaluate" not in html


def test_the_headline_has_the_interval_of_the_share_that_is_right():
    digits = get_dataset("digits")
    low, high = wilson_interval(293, 500)
    assert describe_accuracy({"test_error": 207 / 500, "test_images": 500}, digits) == (
        f"58.6 % right on 500 test images, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
    )
    assert f"{100 * low:.1f}" == "54.2"
    six = {"test_error": 207 / 500, "test_images": 500, "test_views": "six"}
    assert "right on 500 test images with six views, 95 % interval" in describe_accuracy(
        six, digits
    )
    assert describe_accuracy({"test_error": 0.1}, digits) == "90.0 % right on the test images"


@pytest.mark.parametrize("path", ["a b", "-x", "it's", "$HOME", "plain"])
def test_a_quoted_path_is_one_word_and_no_option(path):
    [word] = shlex.split(quote_path(path))
    assert word.removeprefix("./") == path
    assert not word.startswith("-")
