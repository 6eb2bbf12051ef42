"""The house itself: who imports whom, what is public, how long a module is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import residua
from residua.cli.main import COMMANDS

PACKAGE = Path(residua.__file__).parent
ALLOWED_IMPORTS = {
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "extras": {"errors"},
    "config": {"errors"},
    "record": {"errors", "files", "config"},
    "net": {"errors", "files", "config", "record"},
    "data": {"errors", "files", "extras", "config"},
    "training": {"errors", "files", "config", "record", "net", "data"},
    "studies": {"errors", "files", "config", "record", "net", "data", "training"},
    "analysis": {"errors", "files", "config", "record", "net", "data", "training"},
    "deploy": {"errors", "files", "extras", "config", "net", "data"},
    "report": {"errors", "files", "config", "record"},
}
ALLOWED_IMPORTS["cli"] = set(ALLOWED_IMPORTS)
TORCH_FREE = {"errors", "files", "lazy", "extras", "config", "record", "report"}
MODULE_PATHS = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in ALLOWED_IMPORTS
)


def list_imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def top_level_name(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULE_PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_allowed_subpackages(path):
    for name in list_imported_modules(path):
        root, *rest = name.split(".")
        if root == "residua" and rest:
            package = top_level_name(path)
            assert rest[0] in ALLOWED_IMPORTS[package] | {package, "lazy"}, (
                f"{package} must not import {rest[0]}"
            )
        if root == "torch":
            assert top_level_name(path) not in TORCH_FREE, (
                f"{top_level_name(path)} must stay importable without torch"
            )


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "config").rglob("*.py")), ids=lambda path: path.name
)
def test_config_imports_only_the_standard_library(path):
    assert {name.split(".")[0] for name in list_imported_modules(path)} <= set(
        sys.stdlib_module_names
    ) | {"residua"}


def test_every_public_name_exists_and_is_listed():
    assert set(residua.__all__) == set(residua.WHERE)
    assert len(residua.__all__) <= 25
    for name in residua.__all__:
        assert getattr(residua, name) is not None


@pytest.mark.parametrize(
    "code", ["import residua", "import residua.cli.main; residua.cli.main.main(['models'])"]
)
def test_torch_is_not_imported_before_it_is_needed(code):
    command = f"{code}; import sys; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", command], stdout=subprocess.DEVNULL).returncode == 0
    )


def test_no_module_is_longer_than_300_lines():
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert max(lengths.values()) <= 300, lengths


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_few_options_and_help_for_each(command):
    from importlib import import_module

    from residua.cli.parser import CommandParser

    parser = CommandParser(prog="residua")
    import_module(f"residua.cli.{command}").add_arguments(parser)
    actions = [
        action
        for action in parser._actions
        if action.option_strings not in (["-h", "--help"], ["--print_config"])
    ]
    assert len(actions) <= 19
