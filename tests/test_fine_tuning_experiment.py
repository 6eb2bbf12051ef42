"""The tables of the fine-tuning experiment are those of its record."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from scipy.stats import t

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "fine-tuning"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import fine_tuning_table

    yield fine_tuning_table
    del sys.modules["fine_tuning_table"]


def make_row(arm, seed, error, **others):
    row = {"arm": arm, "seed": seed, "data": "four", "steps": 82, "seconds": 10.0 + seed}
    return row | {"test_error": error} | others


def test_the_intervals_are_those_of_student_over_seeds(tables):
    assert {n: round(t.ppf(0.975, n - 1), 3) for n in tables.T_95} == tables.T_95
    rows = [make_row(tables.FIRST_ARM, seed, error) for seed, error in enumerate((0.3, 0.32, 0.34))]
    rows += [make_row("peer", seed, error) for seed, error in enumerate((0.4, 0.41, 0.42))]
    rows += [make_row("peer", 2, 0.45), make_row("alone", 7, 0.5)]  # the later row counts
    assert tables.format_table(rows).splitlines()[2:] == [
        f"| {tables.FIRST_ARM} | 32.0 ± 5.0 % |  | 82 | 11 | 3 |",
        "| peer | 42.0 ± 6.6 % | +10.0 ± 2.5 | 82 | 11 | 3 |",
        "| alone | 50.0 % |  | 82 | 17 | 1 |",
    ]


def test_a_document_gets_the_table_of_the_data_set_and_size_that_it_names(tables, tmp_path, capsys):
    rows = [make_row(tables.FIRST_ARM, 0, 0.3), make_row("a", 0, 0.25, data="a.b", size=64)]
    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    document = tmp_path / "document.md"
    document.write_text("x\n<!-- table a.b 64 -->\nold\n<!-- end -->\n<!-- table c -->\nkept\n")
    for _ in range(2):
        tables.write_tables(tmp_path, [document])
        head, _, rest = document.read_text().partition("<!-- table a.b 64 -->\n")
        assert (head, rest.splitlines()[2:]) == (
            "x\n",
            ["| a | 25.0 % |  | 82 | 10 | 1 |", "<!-- end -->", "<!-- table c -->", "kept"],
        )
    assert "## a.b, 64 pixels\n" in (tmp_path / "README.md").read_text()


def test_the_documents_have_the_tables_of_the_record(tables, tmp_path, capsys):
    shutil.copytree(FOLDER, tmp_path / "record")
    document = tmp_path / "fine-tune.md"
    shutil.copy(ROOT / "docs" / "howto" / "fine-tune.md", document)
    tables.write_tables(tmp_path / "record", [document])
    assert (tmp_path / "record" / "README.md").read_text() == (FOLDER / "README.md").read_text()
    assert document.read_text() == (ROOT / "docs" / "howto" / "fine-tune.md").read_text()
