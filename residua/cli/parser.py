"""Arguments of the command line: one clear sentence for what cannot be parsed, and the options that commands share."""

import json
import os
import re
import sys
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from residua.config.dataset import Dataset
from residua.config.families import UNIT_PARTS
from residua.config.network import Network
from residua.config.papers import network
from residua.config.recipe import Recipe, recipe
from residua.config.serialize import apply_override
from residua.errors import UsageError


class CommandParser(ArgumentParser):
    """Ends in one sentence and exit code 2 for arguments that make no sense."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print_error_on_local_rank0(
            f"{self.prog.replace(' [options]', '')}: {self.explain_parse_error(message)}"
        )
        raise SystemExit(2)

    def explain_parse_error(self, message: str) -> str:
        if match := re.match(r"unrecognized arguments: (\S+)", message):
            flag = match[1].partition("=")[0]
            if flag[2:] in UNIT_PARTS:
                return f"no option {flag!r}: say it in the network's name, as in --model cifar-resnet20,{flag[2:]}=..."
            return f"no option {flag!r}" + suggest_choice(
                flag, [o for o in self._option_string_actions if o.startswith("--")]
            )
        if match := re.match(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", message):
            return f"no {match[1]!r}" + suggest_choice(match[1], re.findall(r"'([^']*)'", match[2]))
        if match := re.match(r'Parser key "(\S+?)"(?: element \d+)?:\s+(.*)', message, re.DOTALL):
            detail = re.sub(
                r"Expected a <class 'int'>. Got value: (\S+)", r"\1 is not a whole number", match[2]
            )
            detail = re.sub(
                r"Expected a <class 'float'>. Got value: (\S+)", r"\1 is not a number", detail
            )
            return f"--{match[1].replace('_', '-')}: {' '.join(detail.split())}"
        if match := re.match(r"the following arguments are required: (\S+)", message):
            command, _, name = match[1].rpartition(".")
            return f"{name.upper()} is missing: {self.prog} {command} --help says what it is"
        if "it was not provided" in message:
            return "which command? --help lists them"
        return " ".join(message.split())


def print_error_on_local_rank0(message: str) -> None:
    """Say on standard error what is wrong; of several processes that torchrun started on a machine, only the first does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"{message}\n")


def suggest_choice(given: str, choices: list[str]) -> str:
    close_matches = get_close_matches(given, choices, n=1, cutoff=0.5)
    return (
        f": did you mean {close_matches[0]!r}?"
        if close_matches
        else f": choose from {', '.join(choices)}"
    )


def add_json_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object, and nothing else, on standard output",
    )


def add_network_options(parser: CommandParser) -> None:
    """Options that replace a part of a named network."""
    for part in ("block", "shortcut", "order"):
        parser.add_argument(f"--{part}", help=", ".join(UNIT_PARTS[part]))


def parse_network_options(arguments: Namespace, name: str, data: Dataset | None = None) -> Network:
    """The network that `add_network`'s options ask for, shaped for a data set."""
    return network(
        name,
        block=arguments.block,
        shortcut=arguments.shortcut,
        order=arguments.order,
        input=data.input if data else None,
        classes=len(data.classes) if data else None,
    )


def add_recipe_options(parser: CommandParser) -> None:
    """Options that choose a recipe and change it."""
    parser.add_argument(
        "--recipe",
        help="he2015, he2016, fast, small, photos or tuning (default: he2015, small for digits)",
    )
    parser.add_argument("--steps", type=int, help="how long to train, in batches")
    parser.add_argument(
        "--epochs", type=float, help="how long to train, in passes over the training images"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change the recipe, e.g. batch_size=64",
    )


def parse_recipe_options(
    arguments: Namespace, data: Dataset, default: Recipe | None = None
) -> Recipe:
    """The recipe that `add_recipe`'s options ask for; `default` where none is named, or the data set's usual one."""
    return apply_recipe_options(
        arguments, default or recipe("small" if data.name == "digits" else "he2015")
    )


def apply_recipe_options(arguments: Namespace, base: Recipe) -> Recipe:
    """The recipe that `add_recipe`'s options ask for, or `otherwise` changed as they ask."""
    new_recipe = recipe(arguments.recipe) if arguments.recipe else base
    if arguments.steps is not None and arguments.epochs is not None:
        raise UsageError("--steps and --epochs both say how long to train: give one of them")
    for length in (arguments.steps, arguments.epochs):
        if length is not None and length <= 0:
            raise UsageError(f"{length} is no time to train: give more than 0 steps or epochs")
    if arguments.steps or arguments.epochs:
        new_recipe = new_recipe.with_duration(
            steps=arguments.steps or 0, epochs=arguments.epochs or 0
        )
    return reduce(apply_override, arguments.set, new_recipe)


def add_data_dir_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="where the data are (default: $RESIDUA_DATA, then the cache, then fetched)",
    )


def print_json(value: object) -> None:
    print(json.dumps(value))
