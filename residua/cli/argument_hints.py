"""The right spelling for arguments that a command does not take, with the user's own values."""

import os
import re
import shlex
from argparse import Action
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from residua.config.name_parts import UNIT_PARTS
from residua.config.papers import network
from residua.config.registry import stored_kind_of
from residua.config.schedules import Schedule
from residua.errors import UsageError, unknown_name_error

EXAMPLE_NETWORK = "cifar-resnet20"
VALUE = "VALUE"  # stands for the value in the text of a spelling
JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
STDOUT_FLAGS = ("--csv", "--json")
TEXT_SUFFIXES = (".csv", ".json", ".jsonl", ".tsv", ".txt")
YES_WORDS, NO_WORDS = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class RecipeSpelling:
    """How to write an option of another program: `text`, with the user's value or an example."""

    text: str
    example: str
    kind: Literal["number", "count", "schedule"] = "number"

    def with_value(self, given: str) -> str:
        """Write the option with the value `given`, or with the example if that is none."""
        return self.text.replace(VALUE, self.read_value(given) or self.example)

    def read_value(self, given: str) -> str:
        """Return a value as JSON would write it; "" if it is not of this option's kind."""
        if self.kind == "schedule":
            plain = given.lower().replace("-", "").replace("_", "")
            names = map(stored_kind_of, get_args(Schedule))
            return next((name for name in names if name.lower() == plain), "")
        try:
            number = int(given) if self.kind == "count" else float(given)
            if not isfinite(number):
                return ""
        except (ValueError, OverflowError):
            return ""
        return given if JSON_NUMBER.fullmatch(given) else str(number)


RECIPE_SPELLINGS = {
    "--learning-rate": RecipeSpelling("--lr VALUE", "0.05"),
    "--wd": RecipeSpelling("--weight-decay VALUE", "0.0005"),
    "--momentum": RecipeSpelling("--set optimiser.momentum=VALUE", "0.95"),
    "--scheduler": RecipeSpelling("""--set 'schedule={"kind": "VALUE"}'""", "OneCycle", "schedule"),
    "--warmup": RecipeSpelling("""--set 'warmup={"steps": VALUE}'""", "1000", "count"),
    "--label-smoothing": RecipeSpelling("--set smoothing=VALUE", "0.1"),
    "--mixup": RecipeSpelling("--set augment.mixup=VALUE", "0.2"),
    "--cutmix": RecipeSpelling("--set augment.cutmix=VALUE", "0.5"),
}
"""Options of other programs that train, with the options that do the same here."""


def explain_unknown_option(
    words: Sequence[str], position: int, options: Mapping[str, Action]
) -> str:
    """Say how to write the option at `position` of a command's `words`, which it does not have."""
    flag, equals, value = words[position].partition("=")
    following = words[position + 1] if position + 1 < len(words) else ""
    if not equals and not following.startswith("--"):
        value = following
    if flag[2:] in UNIT_PARTS:
        example = make_network_example(flag[2:], value, words, "--model" in options)
        return f"there is no option {flag!r}: write it into the network's name, as in {example}"
    if flag in RECIPE_SPELLINGS and "--set" in options:
        return f"there is no option {flag!r}: write {RECIPE_SPELLINGS[flag].with_value(value)}"
    names = [name for name in options if name.startswith("--")]
    return str(unknown_name_error("option", flag, names))


def make_network_example(part: str, value: str, words: Sequence[str], has_option: bool) -> str:
    """Write the user's network, or an example, with a part: `cifar-resnet20,join=shortcut-gate`.

    With `has_option` the network is the value of --model, and else the command's first argument.
    """
    given = words[0]
    if has_option:
        text = " ".join(words).replace("--model=", "--model ").partition("--model ")[2]
        given = text.split(" ")[0]
    known_value = value if value in UNIT_PARTS[part] else ""
    example = f"{EXAMPLE_NETWORK},{part}={known_value or '...'}"
    if known_value:
        try:
            network(f"{given},{part}={known_value}")
            example = f"{given},{part}={known_value}"
        except UsageError:  # it is another kind of model, or does not go with this part
            pass
    return f"--model {example}" if has_option else example


def explain_flag_value(flag: str, value: str, takes_list: bool = False) -> str:
    """Say that an option takes no value, and what to do with the one that was given.

    `takes_list` says whether the command takes a list of paths, of which `value` may be one.
    """
    quoted = shlex.quote(value)
    prints = flag in STDOUT_FLAGS and value.lower() not in (*NO_WORDS, *YES_WORDS)
    is_path = takes_list and os.path.lexists(value)
    if prints and (value.lower().endswith(TEXT_SUFFIXES) or not is_path):
        return f"{flag} takes no value, as it prints to standard output: write {flag} > {quoted}"
    if is_path:
        return f"{flag} takes no value: write {quoted} before it, with the other paths"
    if flag == "--resume" and value.lower() not in (*NO_WORDS, *YES_WORDS):
        return f"--resume takes no value: write --resume --out {quoted}"
    if value.lower() in NO_WORDS:
        return f"{flag} takes no value: leave the option out"
    return f"{flag} takes no value: leave {value!r} out"


def explain_extra_argument(
    unused: str, words: Sequence[str], options: Mapping[str, Action], takes_list: bool
) -> str:
    """Say what to do about arguments of a command that are too many.

    `unused` are these arguments, joined by spaces, and `words` all arguments.
    """
    beginnings = [word for word in words if f"{unused} ".startswith(f"{word} ")]
    word = max(beginnings, key=len, default=unused.split(" ")[0])
    places = [i for i, other in enumerate(words) if other == word and i]
    befores = [words[i - 1] for i in places] or ["-"]
    for before in befores:
        option = options.get(before)
        if option is not None and option.nargs == 0:
            return explain_flag_value(before, word, takes_list)
    path = "my photos" if befores[-1].startswith("-") else f"{befores[-1]} {word}"
    return f"{word!r} is one argument too many: write a path with a space as {path!r}"
