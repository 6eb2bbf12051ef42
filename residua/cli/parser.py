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

from residua.errors import UsageError
from residua.spec.dataset import Dataset
from residua.spec.families import PARTS
from residua.spec.network import Network
from residua.spec.papers import network
from residua.spec.recipe import Recipe, recipe
from residua.spec.text import overridden


class Parser(ArgumentParser):
    """Ends in one sentence and exit code 2 for arguments that make no sense."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        complain(f"{self.prog.replace(' [options]', '')}: {self.sentence(message)}")
        raise SystemExit(2)

    def sentence(self, message: str) -> str:
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            flag = found[1].partition("=")[0]
            if flag[2:] in PARTS:
                return f"no option {flag!r}: say it in the network's name, as in --model cifar-resnet20,{flag[2:]}=..."
            return f"no option {flag!r}" + nearest(flag, [o for o in self._option_string_actions if o.startswith("--")])
        if found := re.match(r"argument \S+: invalid choice: '(.*)' \(choose from (.*)\)", message):
            return f"no {found[1]!r}" + nearest(found[1], re.findall(r"'([^']*)'", found[2]))
        if found := re.match(r'Parser key "(\S+?)"(?: element \d+)?:\s+(.*)', message, re.DOTALL):
            detail = re.sub(r"Expected a <class 'int'>. Got value: (\S+)", r"\1 is not a whole number", found[2])
            detail = re.sub(r"Expected a <class 'float'>. Got value: (\S+)", r"\1 is not a number", detail)
            return f"--{found[1].replace('_', '-')}: {' '.join(detail.split())}"
        if found := re.match(r"the following arguments are required: (\S+)", message):
            command, _, name = found[1].rpartition(".")
            return f"{name.upper()} is missing: {self.prog} {command} --help says what it is"
        if "it was not provided" in message:
            return "which command? --help lists them"
        return " ".join(message.split())


def complain(sentence: str) -> None:
    """Say on standard error what is wrong; of several processes that torchrun started on a machine, only the first does."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"{sentence}\n")


def nearest(asked: str, possible: list[str]) -> str:
    near = get_close_matches(asked, possible, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else f": choose from {', '.join(possible)}"


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on standard output")


def add_network(parser: Parser) -> None:
    """Options that replace a part of a named network."""
    for part in ("block", "shortcut", "order"):
        parser.add_argument(f"--{part}", help=", ".join(PARTS[part]))


def network_of(arguments: Namespace, name: str, data: Dataset | None = None) -> Network:
    """The network that `add_network`'s options ask for, shaped for a data set."""
    shape = {"input": data.input, "classes": len(data.classes)} if data else {}
    return network(name, block=arguments.block, shortcut=arguments.shortcut, order=arguments.order, **shape)  # type: ignore[arg-type]


def add_recipe(parser: Parser) -> None:
    """Options that choose a recipe and change it."""
    parser.add_argument("--recipe", help="he2015, he2016, fast, small, photos or tuning (default: he2015, small for digits)")
    parser.add_argument("--steps", type=int, help="how long to train, in batches")
    parser.add_argument("--epochs", type=float, help="how long to train, in passes over the training images")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change the recipe, e.g. batch_size=64")


def recipe_of(arguments: Namespace, data: Dataset, default: Recipe | None = None) -> Recipe:
    """The recipe that `add_recipe`'s options ask for; `default` where none is named, or the data set's usual one."""
    usual = default or recipe("small" if data.name == "digits" else "he2015")
    chosen = recipe(arguments.recipe) if arguments.recipe else usual
    if arguments.steps is not None and arguments.epochs is not None:
        raise UsageError("--steps and --epochs both say how long to train: give one of them")
    for length in (arguments.steps, arguments.epochs):
        if length is not None and length <= 0:
            raise UsageError(f"{length} is no time to train: give more than 0 steps or epochs")
    if arguments.steps or arguments.epochs:
        chosen = chosen.lasting(steps=arguments.steps or 0, epochs=arguments.epochs or 0)
    return reduce(overridden, arguments.set, chosen)


def add_data_dir(parser: Parser) -> None:
    parser.add_argument("--data-dir", type=Path, help="where the data are (default: $RESIDUA_DATA, then the cache, then fetched)")


def print_json(value: object) -> None:
    print(json.dumps(value))
