"""The house itself: who imports whom, what is public, how long a module is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import residua
from residua.cli.main import COMMANDS

PACKAGE = Path(residua.__file__).parent
BELOW = {
    "errors": set(),
    "files": set(),
    "extras": {"errors"},
    "spec": {"errors"},
    "record": {"errors", "files", "spec"},
    "net": {"errors", "files", "spec"},
    "data": {"errors", "files", "extras", "spec"},
    "train": {"errors", "files", "spec", "record", "net", "data"},
    "study": {"errors", "files", "spec", "record", "net", "data", "train"},
    "deploy": {"errors", "files", "extras", "spec", "record", "net", "data", "train", "report"},
    "report": {"errors", "files", "spec", "record"},
    "cli": {"errors", "files", "extras", "spec", "record", "net", "data", "train", "study", "deploy", "report"},
}
WITHOUT_TORCH = {"errors", "files", "extras", "spec", "record", "report"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in BELOW)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    for name in imports(path):
        root, *rest = name.split(".")
        if root == "residua" and rest:
            assert rest[0] in BELOW[room(path)] | {room(path)}, f"{room(path)} may not know {rest[0]}"
        if root == "torch":
            assert room(path) not in WITHOUT_TORCH, f"{room(path)} must stay importable without torch"


@pytest.mark.parametrize("path", sorted((PACKAGE / "spec").glob("*.py")), ids=lambda path: path.name)
def test_spec_needs_the_standard_library_alone(path):
    assert {name.split(".")[0] for name in imports(path)} <= set(sys.stdlib_module_names) | {"residua"}


def test_every_public_name_exists_and_is_listed():
    assert set(residua.__all__) == set(residua.WHERE)
    assert len(residua.__all__) <= 25
    for name in residua.__all__:
        assert getattr(residua, name) is not None


@pytest.mark.parametrize("code", ["import residua", "import residua.cli.main; residua.cli.main.main(['models'])"])
def test_torch_is_not_imported_before_it_is_needed(code):
    command = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], stdout=subprocess.DEVNULL).returncode == 0


def test_no_module_is_longer_than_300_lines():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(lengths.values()) <= 300, lengths


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_few_options_and_help_for_each(command):
    from importlib import import_module

    from residua.cli.parser import Parser

    parser = Parser(prog="residua")
    import_module(f"residua.cli.{command}").add_arguments(parser)
    actions = [action for action in parser._actions if action.option_strings not in (["-h", "--help"], ["--print_config"])]
    assert len(actions) <= 19
