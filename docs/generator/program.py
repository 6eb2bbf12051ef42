"""The pages of the reference that come from the program itself, as Markdown.

A page holds a block `{generated} NAME`, which the text of `GENERATED` replaces in the site.
"""

import inspect
import json
import re
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from generator.docstrings import PACKAGES, find_home, list_package_names
from residua.cli.main import COMMANDS, import_command, make_parser, read_summary
from residua.cli.models import OTHER_PARTS
from residua.cli.recipes import iterate_fields
from residua.config.dataset import DATASETS
from residua.config.heads import Pooling
from residua.config.joins import Join
from residua.config.name_parts import UNIT_PARTS
from residua.config.optimisers import Optimiser
from residua.config.paper_results import PAPER_RESULTS
from residua.config.papers import list_models, network
from residua.config.plan import plan
from residua.config.recipes import RECIPE_PURPOSES, RECIPES
from residua.config.registry import registered_kinds

NUMBER = re.compile(r"[\d,.]+")
FIRST_SENTENCE = re.compile(r"(?:[^.]|\.(?!\s+[A-Z`]|\s*$))*")
PYTHON_PAGE = Path(__file__).parents[1] / "reference" / "python.md"
LONGEST_VALUE = 120  # characters of a constant whose value is shown


def fill_in(page: str) -> str:
    """Replace each block `{generated} NAME` of a page."""
    return re.sub(
        r"^```\{generated\} (\S+)\n```$", lambda block: GENERATED[block[1]](), page, flags=re.M
    )


def escape(text: str) -> str:
    """Text for a cell of a Markdown table; words in backticks are code."""
    parts = " ".join(text.split()).split("`")
    return "".join(
        make_code(part) if number % 2 else re.sub(r"([\\*_{}\[\]<>#|~$])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def make_code(text: str) -> str:
    """Code for a cell of a Markdown table."""
    return f"`{text}`".replace("|", "\\|")


def make_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; columns of numbers are aligned on the right."""
    cells = [list(row) for row in rows]
    are_numbers = (all(map(NUMBER.fullmatch, column)) for column in zip(*cells, strict=True))
    rule = ["---:" if is_number else "---" for is_number in are_numbers]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(titles), rule, *cells]) + "\n"


def describe_commands() -> str:
    overview = make_table(
        ["command", "what it does"],
        ([f"[`residua {name}`](#residua-{name})", escape(read_summary(name))] for name in COMMANDS),
    )
    return "\n\n".join([overview, *map(describe_command, COMMANDS)])


def describe_command(name: str) -> str:
    """A section on a command: its help, and its arguments and options with their defaults."""
    parser = make_parser(name)
    rows = []
    for title, actions in iterate_argument_groups(parser):
        if title:
            rows.append([f"**{title}**", "", ""])
        rows += [[format_argument(action), *describe_argument(action)] for action in actions]
    return "\n\n".join(
        [
            f"## residua {name}",
            escape_paragraphs(import_command(name).__doc__ or ""),
            make_table(["argument", "meaning", "default"], rows),
        ]
    )


def escape_paragraphs(text: str) -> str:
    return "\n\n".join(escape(part) for part in inspect.cleandoc(text).split("\n\n"))


def iterate_argument_groups(parser: ArgumentParser) -> Iterator[tuple[str, list[Action]]]:
    """The titles and the arguments of the groups of a command's help; a single group has none."""
    groups = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != SUPPRESS]
        if actions:
            is_positional = not actions[0].option_strings
            groups.append(("" if is_positional else str(group.title), actions))
    option_groups = [title for title, _ in groups if title]
    yield from (("" if len(option_groups) == 1 else title, actions) for title, actions in groups)


def format_argument(action: Action) -> str:
    """An argument and its value as code, e.g. `--depths` `DEPTHS ...`."""
    value = str(action.metavar or action.dest.upper()).replace(",", ", ")
    shown = {"0": "", "?": f"[{value}]", "+": f"{value} ...", "*": f"[{value} ...]"}.get(
        str(action.nargs), value
    )
    spellings = ", ".join(map(make_code, action.option_strings))
    return " ".join(filter(None, [spellings, shown and make_code(shown)]))


def describe_argument(action: Action) -> tuple[str, str]:
    """The meaning and the default of an argument, as cells."""
    text = str(action.help or "")
    named_default = re.search(r" ?\(default: (.*)\)$", text)
    if named_default:
        return escape(text[: named_default.start()]), escape(named_default[1])
    if action.option_strings and action.required:
        return escape(text), "required"
    is_silent = action.default in (None, False, "", []) or action.default == SUPPRESS
    values = action.default if isinstance(action.default, list) else [action.default]
    return escape(text), "" if is_silent else make_code(" ".join(map(str, values)))


def describe_recipes() -> str:
    sections = []
    for name, recipe in RECIPES.items():
        rows = (
            [make_code(f"{field.path}={format_value(field.value)}"), escape(field.meaning)]
            for field in iterate_fields(recipe)
        )
        purpose = escape(RECIPE_PURPOSES[name])
        purpose = f"{purpose[0].upper()}{purpose[1:]}."
        sections.append(f"## {name}\n\n{purpose}\n\n{make_table(['`--set`', 'meaning'], rows)}")
    return "\n\n".join(sections)


def format_value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def describe_networks() -> str:
    rows = []
    for name in list_models("*"):
        planned = plan(network(name))
        error = PAPER_RESULTS[name].error if name in PAPER_RESULTS else ""
        numbers = (f"{n:,}" for n in (planned.depth, planned.parameters, planned.multiply_adds))
        rows.append([make_code(name), *numbers, escape(error)])
    titles = ["name", "layers", "parameters", "multiply-adds", "error in the paper"]
    return make_table(titles, rows)


def describe_name_parts() -> str:
    parts = {**UNIT_PARTS, **OTHER_PARTS}
    return make_table(
        ["part", "values"],
        ([make_code(part), ", ".join(map(escape, values))] for part, values in parts.items()),
    )


def describe_datasets() -> str:
    rows = (
        [
            make_code(name),
            f"{len(dataset.classes)}",
            " x ".join(map(str, dataset.input)),
            ", ".join(map(escape, dataset.classes[:10]))
            + (", ..." if dataset.classes[10:] else ""),
        ]
        for name, dataset in DATASETS.items()
    )
    return make_table(["name", "classes", "image", "names of the classes"], rows)


def describe_parts() -> str:
    """The registered kinds of parts, which JSON and `--set` name."""
    rows = []
    for base in (Join, Pooling, Optimiser):
        for kind, part in registered_kinds(base).items():
            [sentence] = FIRST_SENTENCE.findall(inspect.getdoc(part) or "")[:1]
            rows.append([base.__name__, make_code(kind), escape(sentence)])
    return make_table(["part", "kind", "what it does"], rows)


def describe_packages() -> str:
    """Entries for the names that the packages export beside those of the Python reference."""
    documented: set[str] = set()
    python_page = PYTHON_PAGE.read_text(encoding="utf-8")
    sections = []
    for package_name in PACKAGES:
        entries = []
        package = import_module(package_name)
        for name in list_package_names(package_name):
            home = find_home(package, name)
            is_new = f"{home}.{name}" not in documented
            if is_new and f":: {package_name}::{name}\n" not in python_page:
                documented.add(f"{home}.{name}")
                entries.append(make_entry(package_name, home, name))
        first_line = (package.__doc__ or "").splitlines()[0]
        block = "\n".join(entries)
        sections.append(
            f"## {package_name}\n\n{escape(first_line)}\n\n```{{eval-rst}}\n{block}\n```"
        )
    return "\n\n".join(sections)


def make_entry(package_name: str, home: str, name: str) -> str:
    """A directive of autodoc for a name that a package exports from the module `home`."""
    value = getattr(import_module(package_name), name)
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, Exception) else "class"
        return f".. auto{kind}:: {package_name}::{name}\n   :members:\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {package_name}::{name}\n"
    is_short = len(repr(value)) <= LONGEST_VALUE
    return f".. autodata:: {home}::{name}\n{'' if is_short else '   :no-value:'}\n"


GENERATED: dict[str, Callable[[], str]] = {
    "commands": describe_commands,
    "recipes": describe_recipes,
    "networks": describe_networks,
    "name-parts": describe_name_parts,
    "data-sets": describe_datasets,
    "parts": describe_parts,
    "packages": describe_packages,
}
