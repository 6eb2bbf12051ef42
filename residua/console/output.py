"""Print the output of commands: results on standard output, notes and errors on standard error."""

import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from residua.config.dataset import Dataset
from residua.config.serialize import Json
from residua.console.colours import embolden_first_column, redden_text

if TYPE_CHECKING:
    from residua.data import DataSummary

CONTROL_CHARACTER_ESCAPES = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\n"
}
"""Maps control characters, which may stand in file names and steer a terminal, to escapes."""

MAX_WORD_LENGTH, SHOWN_START = 4096, 100  # Linux allows paths of 4,096 bytes


def print_json(value: object) -> None:
    """Print one JSON value on one line of standard output."""
    print(json.dumps(value))


def print_result(facts: object, summary: str, as_json: bool) -> None:
    """Print the result of a command as JSON or as text.

    `facts` holds the values for the JSON; `summary` is the text, whose labels are bold on a
    terminal.
    """
    print(json.dumps(facts) if as_json else embolden_first_column(summary, sys.stdout))


def print_note(
    message: str,
    program: str = "residua",
    *,
    on_every_rank: bool = False,
    is_error: bool = False,
) -> None:
    """Print `program: message` on standard error; for an error, `program` is red on a terminal.

    Of the processes that torchrun started on a machine, only the one with local rank 0 prints,
    unless `on_every_rank` is set.  Processes that were started by hand all print.
    """
    is_started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if on_every_rank or not is_started_by_torchrun or os.environ.get("LOCAL_RANK", "0") == "0":
        text = f"{shorten_words(message)}\n".translate(CONTROL_CHARACTER_ESCAPES)
        label = f"{program}:".translate(CONTROL_CHARACTER_ESCAPES)
        with suppress(OSError, ValueError):  # nobody reads standard error any more
            sys.stderr.write(f"{redden_text(label, sys.stderr) if is_error else label} {text}")


def shorten_words(message: str) -> str:
    """Cut words that are longer than any path, such as a number of 5,000 digits."""
    long_word = rf"(\S{{{SHOWN_START}}})\S{{{MAX_WORD_LENGTH - SHOWN_START},}}"
    return re.sub(long_word, r"\1...", message)


def print_notes(messages: Iterable[str]) -> None:
    """Print each message as a separate note."""
    for message in messages:
        print_note(message)


def print_data_summary(summary: "DataSummary") -> None:
    """Print the summary of a data set as one block on standard error."""
    print_note("\n".join(summary.describe()))


class DataSummaryRecorder:
    """Prints each summary that it is called with, and keeps the last one for --json."""

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self.json: dict[str, Json] = {}

    def __call__(self, summary: "DataSummary") -> None:
        self.json = summary.json
        if self.is_main:
            print_data_summary(summary)


def print_published_split(dataset: Dataset, split: str, image_count: int | None = None) -> None:
    """Print which images of a named data set a command reads; without a count, the whole split."""
    count = "all" if image_count is None else f"the first {image_count:,}"
    print_note(
        f"data {dataset.name}: {count} images of {split}, in {len(dataset.classes):,} classes"
    )
