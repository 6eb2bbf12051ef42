"""The layout of residua's docstrings as reStructuredText, and what the reference must hold.

A docstring is paragraphs, tables of names and their meaning, and indented formulas.  Words in
backticks are code.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import groupby

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import residua

TABLE_ROW = re.compile(r"(\S(?:\S|, )*[^\s.,:;?!]|\w) {2,}(\S.*)")
"""A name, or names with commas between them, and at least two spaces before the meaning."""

LOGGER = logging.getLogger(__name__)
JSON_TYPE = re.compile(
    r"bool \| int \| float \| str \| list\[\S*Json\] \| dict\[str, \S*Json\](?: \| None)?"
)
PUBLIC_MODULES = ("residua.errors", "residua.sklearn")
PACKAGES = tuple(
    f"residua.{name}"
    for name in (
        *("config", "net", "net.convert", "data", "data.sources", "training", "studies"),
        *("analysis", "deploy", "report"),
    )
)


def list_public_names() -> Iterator[str]:
    """The public names, each of which has an entry in the Python reference."""
    yield from (f"residua.{name}" for name in residua.__all__)
    for module_name in PUBLIC_MODULES:
        module = import_module(module_name)
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            is_own = getattr(value, "__module__", "") == module_name and name[0] != "_"
            if is_own and name not in residua.__all__:
                yield f"{module_name}.{name}"


def find_home(package: object, name: str) -> str:
    """The module that defines a name which `package` exports lazily."""
    homes = inspect.getclosurevars(package.__getattr__).nonlocals["homes"]  # type: ignore[attr-defined]
    return f"{package.__name__}.{homes[name]}"  # type: ignore[attr-defined]


def list_package_names(package_name: str) -> list[str]:
    """The names that a package exports and `residua` itself does not."""
    package = import_module(package_name)
    return [name for name in dir(package) if name[0] != "_" and name not in residua.__all__]


def require_complete_reference(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name without an entry in the reference."""
    entries = env.domains.python_domain.objects
    for name in list_public_names():
        if name not in entries:
            LOGGER.warning(f"{name} is public, but docs/reference/python.md has no entry for it")


def convert_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Replace the lines of a docstring by reStructuredText; warn if there is none."""
    if what == "data":
        if lines == (inspect.getdoc(type(value)) or "").splitlines():  # that of its class
            lines[:] = []
    elif not any(lines) or is_generated_by_dataclass(value, lines):
        LOGGER.warning(f"{name} has no docstring")
    lines[:] = list(convert_lines(lines))


def is_generated_by_dataclass(value: object, lines: list[str]) -> bool:
    """Whether a docstring is the signature that `dataclass` writes where there is none."""
    return bool(lines) and lines[0].startswith(f"{getattr(value, '__name__', '')}(")


def convert_lines(lines: Iterable[str]) -> Iterator[str]:
    """Convert a docstring block by block; blank lines stand between blocks."""
    for is_blank, group in groupby(lines, key=lambda line: not line.strip()):
        block = list(group)
        if is_blank:
            yield ""
        elif block[0].startswith(" ") or any("├" in line for line in block):
            yield from ["::", "", *(f"   {line}" for line in block), ""]
        elif TABLE_ROW.fullmatch(block[0]):
            yield from convert_table(block)
        else:
            yield from map(convert_inline, block)


def convert_table(block: list[str]) -> Iterator[str]:
    """Make a definition list of a table's rows; a line that begins with spaces goes on."""
    for line in block:
        row = TABLE_ROW.fullmatch(line)
        if row:
            terms = ", ".join(f"``{term}``" for term in row[1].split(", "))
            yield from ["", terms, f"   {convert_inline(row[2])}"]
        else:
            yield f"   {convert_inline(line.strip())}"
    yield ""


def convert_inline(text: str) -> str:
    """Turn words in backticks into code, or into links if they are public names."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(
        make_code(part) if number % 2 else convert_words(part) for number, part in enumerate(parts)
    )


def convert_words(text: str) -> str:
    """Escape what has a meaning in reStructuredText, and make links of the names of errors."""
    escaped = re.sub(r"([\\*_|])", r"\\\1", text)
    return re.sub(r"\b(\w+Error|Interrupted)\b", lambda word: make_error_link(word[1]), escaped)


def make_error_link(name: str) -> str:
    return make_code(name) if name in residua.__all__ else name


def make_code(text: str) -> str:
    name = text.removeprefix("residua.")
    if name in residua.__all__:
        return f":py:obj:`{text} <residua.{name}>`"
    return f"``{text}``"


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    value: object,
    options: object,
    signature: str | None,
    return_annotation: str | None,
) -> tuple[str | None, str | None] | None:
    """Leave out the arguments of errors, which users do not make, and name the type of JSON."""
    if what == "exception":
        return ("", None) if signature else None
    if signature is None:
        return None
    return name_json(signature), return_annotation and name_json(return_annotation)


def name_json(annotation: str) -> str:
    """Write `Json` instead of what it stands for, level by level."""
    while (shorter := JSON_TYPE.sub("Json", annotation)) != annotation:
        annotation = shorter
    return annotation
