"""Every block of code in docs/ and every command of the README runs, in order, as a reader would run it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from residua.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page):
    return re.findall(r"```(python|sh)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks(page)
    assert found
    for language, code in found:
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "residua"
            assert main(arguments) == 0, line


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).exists(), path
    for line in re.findall(r"^residua (.*)$", text, re.MULTILINE):
        arguments = shlex.split(line, comments=True)
        done = subprocess.run(
            [sys.executable, "-m", "residua", arguments[0], "--help"], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in done.stdout, f"residua {line}"
