"""No cell of our CSV files is a formula, and our own reader undoes the escapes."""

import csv
import io
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from residua.cli.prediction_printers import ImageResult, begin_csv_table
from residua.data.check import check_dataset, format_usable_csv
from residua.data.sources.resolve import list_image_dataset
from residua.report.evaluation_page import format_classes_csv, format_confusion_csv
from residua.spreadsheet_cells import escape_formula, unescape_formula
from tests.report.test_evaluation_page import make_evaluation

FORMULA_STARTS = "=+-@\t\r"  # as https://owasp.org/www-community/attacks/CSV_Injection lists them
NAMES = ("=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "'=1", "'plain", "plain", "''@")

cells = st.text(alphabet="=+-@\t\r'ab1 ") | st.text()


@given(cells)
def test_no_escaped_cell_begins_like_a_formula_and_each_is_read_back(cell):
    escaped = escape_formula(cell)
    assert not escaped.startswith(tuple(FORMULA_STARTS))
    assert unescape_formula(escaped) == cell
    if not cell.lstrip("'").startswith(tuple(FORMULA_STARTS)):
        assert escaped == cell


@given(cells, cells)
def test_different_cells_stay_different(first, second):
    assert (escape_formula(first) == escape_formula(second)) == (first == second)


def test_numbers_stay_numbers():
    assert [escape_formula(value) for value in (-1, -0.5, None)] == [-1, -0.5, None]


def read_cells(text):
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]


@pytest.mark.parametrize("render", [format_classes_csv, format_confusion_csv])
def test_the_tables_of_an_evaluation_have_no_formulas(render):
    cells_of_table = read_cells(render(make_evaluation(NAMES)))
    assert not any(cell.startswith(tuple(FORMULA_STARTS)) for cell in cells_of_table)
    assert set(NAMES) <= {unescape_formula(cell) for cell in cells_of_table}


def test_the_table_of_predictions_has_no_formulas(capsys, tmp_path):
    print_row = begin_csv_table(2, with_sorted_to=True)
    top, sorted_to = [(NAMES[0], 0.75), (NAMES[3], 0.25)], Path("=1/a.png")
    print_row(ImageResult(tmp_path / "a.png", top, sorted_to=sorted_to))
    print_row(ImageResult(Path("-x.png"), [], "=is no image"))
    assert read_cells(capsys.readouterr().out)[7:] == [
        str(tmp_path / "a.png"),
        f"'{NAMES[0]}",
        "0.75",
        f"'{NAMES[3]}",
        "0.25",
        "",
        "'=1/a.png",
        "'-x.png",
        "",
        "",
        "",
        "",
        "'=is no image",
        "",
    ]


def test_the_usable_images_are_read_back_with_their_classes_and_paths(tmp_path):
    classes = [name.replace("/", "-") for name in NAMES]
    for label, name in enumerate(classes):
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = Random(10 * label + i).randbytes(3 * 16 * 16)
            image = Image.frombytes("RGB", (16, 16), pixels)
            image.save(tmp_path / name / f"{NAMES[i][:1]}{i}.png")
    checked = check_dataset(list_image_dataset(tmp_path))
    table = tmp_path / "clean.csv"
    table.write_text(format_usable_csv(checked, table), encoding="utf-8")
    assert not any(c.startswith(tuple(FORMULA_STARTS)) for c in read_cells(table.read_text()))
    read_back = list_image_dataset(table)
    assert read_back.classes == tuple(sorted(classes))
    assert {(entry.path.name, read_back.classes[entry.label]) for entry in read_back.entries} == {
        (image.entry.path.name, checked.listing.classes[image.entry.label])
        for image in checked.images
    }
    assert len(read_back.entries) == 3 * len(classes)
