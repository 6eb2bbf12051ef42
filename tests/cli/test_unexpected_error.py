"""An error that nobody foresaw is one sentence, and a file that a user can send."""

import re
import tempfile
from pathlib import Path

import pytest
import torch

from residua.cli import models
from residua.cli.main import main, run_reporting_errors
from residua.cli.unexpected_error import UNEXPECTED_ERROR
from tests.cli_runner import run_cli


def raise_error(error):
    raise error


@pytest.fixture
def run_failing(monkeypatch, capsys, tmp_path):
    """Runs `residua models`, which raises the given error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(error):
        monkeypatch.setattr(models, "run", lambda arguments: raise_error(error))
        code = main(["models"])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        AssertionError(),
        KeyError("caf\N{LATIN SMALL LETTER E WITH ACUTE}\udcff"),
        RecursionError("too deep"),
        ValueError("first line\nsecond line"),
        RuntimeError("x" * 100_000),
    ],
)
def test_any_error_is_one_sentence_that_names_a_file_with_the_traceback(
    run_failing, tmp_path, error
):
    code, err = run_failing(error)
    assert code == 1
    assert err.startswith(f"residua: {UNEXPECTED_ERROR} ({type(error).__name__}: ")
    assert err.count("\n") == 1
    assert len(err) < 600
    file = Path(re.fullmatch(r".*: please report it with the file (\S+)\n", err)[1])
    assert file.parent == tmp_path
    text = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "in raise_error" in text
    assert f"residua {residua_version()}, Python " in text


def residua_version():
    from importlib.metadata import version

    return version("residua")


def test_two_errors_have_two_files(run_failing, tmp_path):
    for _ in range(2):
        run_failing(ValueError("x"))
    assert len(list(tmp_path.glob("residua-error-*.txt"))) == 2


def test_without_a_temporary_folder_the_sentence_names_the_line(run_failing, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    code, err = run_failing(ValueError("x"))
    assert code == 1
    assert re.fullmatch(
        r"residua: unexpected error in \S+, line \d+ \(.*\): please report it\n", err
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate"
            " memory: you tried to allocate 1 bytes"
        ),
    ],
)
def test_too_little_memory_is_no_unexpected_error(run_failing, tmp_path, error):
    assert run_failing(error) == (
        1,
        "residua: the memory is used up: use a smaller batch, smaller images or a smaller "
        "network\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_message_is_one_line_and_cannot_steer_the_terminal(capsys):
    assert run_cli(capsys, "report", "a\nb\x1b[31m\x07") == (
        1,
        "",
        "residua: there is no folder a b\\x1b[31m\\x07: give the folder of a study or of a run",
    )
    _, _, line = run_cli(capsys, "show", "x" * 5000)
    assert line.startswith(f"residua: there is no network '{'x' * 99}...")
    assert run_reporting_errors(lambda: None) == 0
