"""The shell's tab key, by the protocol that argcomplete's shell code speaks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import residua
from residua.config.recipes import RECIPES

pytest.importorskip("argcomplete")
PACKAGE = Path(residua.__file__).parent


def complete_line(line, folder, command=(sys.executable, "-m", "residua"), program_words=1):
    answer = folder / "answer"
    answer.touch()
    environment = {
        "_ARGCOMPLETE": str(program_words),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, cwd=folder
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return [word.strip() for word in answer.read_text().split("\n")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("residua tr", ["train"]),
        ("residua train digits --we", ["--weight-decay"]),
        ("residua train --recipe ", list(RECIPES)),
        ("residua train digits --optimizer a", ["adamw"]),
        ("residua evaluate x digits --split t", ["train", "test"]),
        ("residua recipes he", ["he2015", "he2016"]),
        ("residua show cifar-resnet20 --sv", ["--svg"]),
    ],
)
def test_the_tab_key_completes_commands_options_and_values(tmp_path, line, words):
    assert complete_line(line, tmp_path) == words


def test_python_m_residua_is_completed_too(tmp_path):
    assert complete_line("python -m residua train --rec", tmp_path, program_words=3) == [
        "--recipe",
        "--recompute",
    ]


def test_files_are_completed_where_a_path_is_expected(tmp_path):
    (tmp_path / "resnet20.pth").touch()
    assert complete_line("residua convert res", tmp_path) == ["resnet20.pth"]


def test_the_shell_code_of_argcomplete_finds_residua():
    script = shutil.which("register-python-argcomplete", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("register-python-argcomplete is not beside this Python")
    code = subprocess.run([sys.executable, script, "residua"], capture_output=True, text=True)
    assert "complete " in code.stdout
    assert "residua" in code.stdout
    for module in ("cli/main.py", "__main__.py"):  # argcomplete reads so much of a program
        assert "PYTHON_ARGCOMPLETE_OK" in (PACKAGE / module).read_text()[:1024]


def test_without_argcomplete_a_request_runs_nothing_else(tmp_path):
    code = (
        "import sys; sys.modules['argcomplete'] = None\n"
        "from importlib import util\n"
        "import residua.cli.completion as c; c.find_spec = lambda name: None\n"
        "from residua.cli.main import main; sys.exit(main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"_ARGCOMPLETE": "1", "COMP_LINE": "residua ", "COMP_POINT": "8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("residua: no command was given")
