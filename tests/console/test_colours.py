"""Colours: on a terminal, in no pipe, and as NO_COLOR, FORCE_COLOR and TERM say."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from residua.console.colours import BOLD, RED, RESET, embolden_first_column, shows_colours
from tests.cli_runner import run_cli

VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TERM")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("variables", "in_terminal", "in_pipe"),
    [
        ({"TERM": "xterm"}, True, False),
        ({}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "", "TERM": "xterm"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
    ids=str,
)
def test_colours_depend_on_the_terminal_and_the_environment(
    monkeypatch, variables, in_terminal, in_pipe
):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert shows_colours(Terminal()) == in_terminal
    assert shows_colours(io.StringIO()) == in_pipe


def test_only_the_labels_of_a_table_are_bold(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = "test error   4.2 %\nA sentence of one line.\n  indented   x\n"
    assert embolden_first_column(text, io.StringIO()) == (
        f"{BOLD}test error{RESET}   4.2 %\nA sentence of one line.\n  indented   x\n"
    )


def run_in_terminal(*arguments):
    """What a command writes to a terminal that is both its standard output and error."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-m", "residua", *arguments]
    subprocess.run(command, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm"})
    os.close(theirs)
    written = os.read(ours, 100_000).decode()
    os.close(ours)
    return written


@pytest.mark.skipif(sys.platform != "linux", reason="reads a closed terminal as Linux does")
def test_a_terminal_gets_bold_labels_and_a_red_error_prefix():
    bold_name = re.escape(f"{BOLD}he2015{RESET}")
    assert re.search(f"{bold_name} +64,000 steps", run_in_terminal("recipes"))
    assert run_in_terminal("trian").startswith(f"{RED}residua:{RESET} there is no command 'trian'")
    assert run_in_terminal("train").startswith(f"{RED}residua:{RESET} DATA is missing")
    assert run_in_terminal("train", "--lr", "x").startswith(f"{RED}residua train:{RESET} --lr: x")


def test_pipes_and_json_get_no_colours(capsys, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert "\x1b" not in run_cli(capsys, "recipes")[1]
    assert "\x1b" not in run_cli(capsys, "trian")[2]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" in run_cli(capsys, "recipes")[1]
    assert run_cli(capsys, "trian")[2].startswith(RED)
    assert "\x1b" not in run_cli(capsys, "recipes", "--json")[1]
