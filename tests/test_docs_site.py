"""The documentation's site: what its generator makes of docstrings, the program and notebooks."""

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from docutils.core import publish_doctree
from docutils.nodes import definition_list_item, literal, literal_block, system_message, term

from residua.cli.main import COMMANDS, make_parser
from residua.config.papers import list_models
from residua.config.recipes import RECIPES
from residua.config.serialize import to_json

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from generator import docstrings, links, notebooks, program  # noqa: E402

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_stored_without_outputs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = notebooks.read_cells(path)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    outputs = notebooks.run_cells(cells)
    for cell, output in zip(code, outputs, strict=True):
        assert ("alt" in cell["metadata"]) == ("png" in output)  # each figure has its words
    if path.stem == "photographs":
        [right, count] = re.findall(r"(\d+) of (\d+) new tiles", outputs[3]["text"])[0]
        assert int(right) > 0.75 * int(count)
    else:
        errors = [float(error) for error in re.findall(r"([\d.]+)%", outputs[1]["text"])]
        plain20, plain56, resnet20, resnet56 = errors
        assert plain56 > 50 > 20 > max(plain20, resnet20, resnet56)
        plain, residual = re.findall(r"([\d,]+) times", outputs[3]["text"])
        assert int(plain.replace(",", "")) > 100 * int(residual)


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["photographs", "why-depth"]


def test_the_reference_has_every_option_of_every_command():
    sections = program.fill_in("```{generated} commands\n```").split("\n## residua ")[1:]
    assert [section.split("\n")[0] for section in sections] == list(COMMANDS)
    for command, section in zip(COMMANDS, sections, strict=True):
        actions = make_parser(command)._actions
        options = {option for action in actions for option in action.option_strings}
        options = {option for option in options if option.startswith("--")}
        assert "--help" in options
        assert [option for option in options if f"{option}`" not in section] == []


def test_the_reference_has_every_field_of_every_recipe():
    page = program.fill_in("```{generated} recipes\n```")
    for recipe, section in zip(RECIPES.values(), page.split("## ")[1:], strict=True):
        assert section.startswith(recipe.name)
        for path, value in iterate_leaves(to_json(recipe)):
            assert f"`{path}={value if isinstance(value, str) else json.dumps(value)}`" in section
        for field in fields(recipe):  # also those that JSON leaves out where they are not set
            key = field.metadata.get("stored_as", field.name)
            assert is_dataclass(getattr(recipe, field.name)) or f"`{key}=" in section


def iterate_leaves(content, prefix=""):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from iterate_leaves(value, f"{prefix}{key}.")
        elif key != "kind":
            yield f"{prefix}{key}", value


def test_the_reference_has_every_named_network():
    page = program.fill_in("```{generated} networks\n```")
    assert [name for name in list_models("*") if f"`{name}`" not in page] == []


def test_every_public_name_has_an_entry_in_the_python_reference():
    text = (ROOT / "docs/reference/python.md").read_text()
    entries = {entry.replace("::", ".") for entry in re.findall(r"\.\. auto\w+:: (\S+)", text)}
    assert set(docstrings.list_public_names()) - entries == set()


def test_a_docstring_keeps_its_tables_formulas_and_signs():
    lines = """Train `x`, 2 * y and a_ | b.

    name       what it is called,
               on two lines
    low, high  the limits

    A sentence.  Two spaces after it.

        y = x_ + F(x)
    """.splitlines()
    document = publish_doctree(
        "\n".join(docstrings.convert_lines([line.removeprefix("    ") for line in lines])),
        settings_overrides={"report_level": 5},
    )
    assert [*document.findall(system_message)] == []
    assert [word.astext() for word in document.findall(term)] == ["name", "low, high"]
    [first, _] = document.findall(definition_list_item)
    assert " ".join(first.astext().split()) == "name what it is called, on two lines"
    [formula] = document.findall(literal_block)
    assert formula.astext().strip() == "y = x_ + F(x)"
    assert next(document.findall(literal)).astext() == "x"
    assert "Train x, 2 * y and a_ | b." in document.astext()


def test_a_link_to_a_missing_file_or_anchor_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="here">A</h1><a href="#here"></a><a href="b.html#there"></a><a href="b.html"></a>'
        '<a href="https://example.org/x"></a><img src="figure.svg"><a href="#nowhere"></a>'
    )
    (tmp_path / "b.html").write_text("<p>B</p>")
    assert links.find_broken_links(tmp_path) == [
        ("a.html", "#nowhere"),
        ("a.html", "b.html#there"),
        ("a.html", "figure.svg"),
    ]


def test_a_build_fails_for_a_broken_link_and_for_a_missing_docstring(tmp_path):
    (tmp_path / "undocumented.py").write_text("def silent():\n    pass\n")
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "conf.py").write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT / 'docs')!r}]\n"
        "extensions = ['myst_parser', 'sphinx.ext.autodoc', 'generator']\n"
    )
    (tmp_path / "index.md").write_text(
        "# A\n\n[missing](missing.md) [record](record.json)\n\n"
        "```{eval-rst}\n.. autofunction:: undocumented::silent\n```\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", tmp_path, tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cross-reference target not found: 'missing.md'" in done.stderr
    assert "undocumented.silent has no docstring" in done.stderr
    assert "residua.train is public, but docs/reference/python.md has no entry" in done.stderr
    assert (tmp_path / "site/record.json").read_text() == "{}"  # a copy that the page links to
    assert 'href="record.json"' in (tmp_path / "site/index.html").read_text()
