"""The house itself: who imports whom, what is public, how long a module is."""

import ast
import graphlib
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import residua
from residua.cli.main import COMMANDS, module_of_command

PACKAGE = Path(residua.__file__).parent
RECORDS = {"errors", "bounded_json", "files", "config", "record_checks", "record", "study_records"}
ALLOWED_IMPORTS = {
    "errors": set(),
    "file_locks": set(),
    "interrupted_writes": {"file_locks"},
    "files": {"errors", "file_locks", "interrupted_writes", "file_names"},
    "lazy": set(),
    "version": set(),
    "extras": {"errors"},
    "bounded_json": {"errors"},
    "spreadsheet_cells": set(),
    "file_names": set(),
    "cache_folder": {"files"},
    "downloads": set(),
    "config": {"errors", "bounded_json"},
    "record_checks": {"errors", "bounded_json", "config"},
    "record": {"errors", "bounded_json", "files", "config", "record_checks"},
    "study_records": {"errors", "bounded_json", "files", "config", "record_checks", "record"},
    "net": {
        "errors",
        "bounded_json",
        "files",
        "file_names",
        "cache_folder",
        "downloads",
        "extras",
        "version",
        "config",
        "record",
    },
    "data": {
        "errors",
        "bounded_json",
        "files",
        "file_names",
        "extras",
        "cache_folder",
        "downloads",
        "config",
        "spreadsheet_cells",
    },
    "training": RECORDS | {"version", "extras", "net", "data"},
    "studies": RECORDS | {"net", "data", "training"},
    "analysis": RECORDS | {"net", "data", "training"},
    "deploy": {
        "errors",
        "bounded_json",
        "files",
        "file_names",
        "extras",
        "version",
        "config",
        "net",
        "data",
    },
    "report": RECORDS | {"spreadsheet_cells"},
    "console": {"errors", "config", "record", "data", "training", "report"},
}
ALLOWED_IMPORTS["api"] = set(ALLOWED_IMPORTS)
ALLOWED_IMPORTS["sklearn"] = {"errors", "config", "data", "training", "api"}
ALLOWED_IMPORTS["cli"] = set(ALLOWED_IMPORTS) - {"sklearn"}
FILES = {"file_locks", "file_names", "interrupted_writes", "spreadsheet_cells"}
TORCH_FREE = {"lazy", "extras", "report"} | FILES | RECORDS
MODULE_PATHS = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in ALLOWED_IMPORTS
)


def list_imported_modules(path, node=None):
    """The modules that a file imports, or one function of it; `from residua import net` is one."""
    for inner in ast.walk(node or ast.parse(path.read_text())):
        if isinstance(inner, ast.Import):
            yield from (alias.name for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom) and inner.module == "residua":
            yield from (f"residua.{alias.name}" for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            yield inner.module or ""


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
    assert sorted(residua.__all__) == dir(residua)
    assert len(residua.__all__) <= 36
    for name in residua.__all__:
        assert getattr(residua, name) is not None


PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_says_what_is_in_it_and_exports_names_that_exist(folder):
    package = importlib.import_module(dotted_name(folder / "__init__.py"))
    assert len(package.__doc__ or "") > 20
    for name in dir(package) if "__dir__" in vars(package) else []:
        assert getattr(package, name) is not None
        assert not (folder / f"{name}.py").exists(), f"{name} is a module, too"


def dotted_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def test_no_imports_form_a_circle_not_even_inside_functions():
    modules = {dotted_name(path): path for path in PACKAGE.rglob("*.py")}
    graph = {
        name: {module for module in list_imported_modules(path) if module in modules} - {name}
        for name, path in modules.items()
        if path.name != "__init__.py"  # which imports at the first use of a name
    }
    graph = {name: below & set(graph) for name, below in graph.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


LATE_IMPORTS = {  # heavy or optional libraries, and a module that Windows lacks
    "argcomplete",
    "argcomplete.lexers",
    "captum.attr",
    "ctypes",
    "datasets",
    "datasets.config",
    "fcntl",
    "fsspec",
    "h5py",
    "huggingface_hub",
    "huggingface_hub.constants",
    "huggingface_hub.errors",
    "jinja2",
    "matplotlib",
    "matplotlib.colors",
    "matplotlib.figure",
    "matplotlib.lines",
    "matplotlib.ticker",
    "mlflow.entities",
    "mlflow.tracking",
    "msgpack",
    "onnx",
    "onnxruntime",
    "onnxruntime.quantization",
    "openvino",
    "pyarrow",
    "ray",
    "residua.net.triton_batchnorm",  # needs the optional triton
    "residua.net.triton_conv",  # imports Triton
    "scipy.io",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.svm",
    "tensorboard.backend.event_processing.event_file_loader",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.plugins.hparams.summary_v2",
    "tensorboard.summary.writer.record_writer",
    "tqdm",
    "tqdm.std",
    "wandb",
}


@pytest.mark.parametrize("path", MODULE_PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_heavy_or_optional_libraries_are_imported_inside_functions(path):
    for function in list_functions(path):
        for name in list_imported_modules(path, function):
            assert name in LATE_IMPORTS, f"{function.name} imports {name}"


def list_functions(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULE_PATHS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_longer_than_60_lines(path):
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in list_functions(path)}
    assert max(lengths.values(), default=0) <= 60, lengths


def test_a_public_name_means_one_thing_in_the_whole_package():
    places = defaultdict(set)
    for path in MODULE_PATHS:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places[node.name].add(path.stem)
    commands = {"add_arguments", "run"}  # of each command
    assert {name for name, paths in places.items() if len(paths) > 1} <= commands


def test_most_names_of_functions_are_more_than_one_word():
    names = [node.name for path in MODULE_PATHS for node in list_functions(path)]
    names = [name for name in names if not name.startswith("__")]
    assert sum("_" in name.strip("_") for name in names) >= 0.8 * len(names)


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
    import_module(module_of_command(command)).add_arguments(parser)
    actions = [
        action
        for action in parser._actions
        if action.option_strings not in (["-h", "--help"], ["--print_config"])
    ]
    assert len(actions) <= 31
