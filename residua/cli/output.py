"""Print the output of commands: results on standard output, notes and errors on standard error."""

import json
import os
import sys
from collections.abc import Iterable


def print_json(value: object) -> None:
    """Print one JSON value on one line of standard output."""
    print(json.dumps(value))


def print_result(facts: object, summary: str, as_json: bool) -> None:
    """Print a command's result: all facts as JSON, or the summary for people."""
    print(json.dumps(facts) if as_json else summary)


def print_note(message: str, program: str = "residua") -> None:
    """Print `program: message` on standard error.

    Of the processes that torchrun started on a machine, only the one of local rank 0 prints.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"{program}: {message}\n")


def print_notes(messages: Iterable[str]) -> None:
    """Print each message as a separate note."""
    for message in messages:
        print_note(message)
