import pytest

from residua.console.error_chart import draw_error_chart


def make_rows(dev_errors, train_errors):
    return [
        {"step": 10 * i, "epoch": float(i), "dev_error": dev, "train_error": train}
        for i, (dev, train) in enumerate(zip(dev_errors, train_errors, strict=True), 1)
    ]


ROWS = make_rows([0.9, 0.4, 0.2, 0.1], [0.8, 0.3, 0.1, 0.02])


@pytest.mark.parametrize("columns", [5, 40, 80, 500])
def test_the_chart_has_at_most_12_lines_and_fits_the_terminal(columns):
    lines = draw_error_chart(ROWS, columns, "utf-8")
    assert len(lines) <= 12
    assert max(map(len, lines[1:])) <= max(24, min(columns, 72))


def test_the_curves_begin_at_the_largest_error_and_end_at_the_smallest():
    _, first, *_, last, _, epochs = draw_error_chart(ROWS, 60, "utf-8")
    assert first.startswith("    90 │●")
    assert last.startswith("   2.0 │")
    assert last.endswith("·")
    assert epochs.split() == ["epoch", "1.0", "4.0"]


def test_an_error_that_never_changes_is_a_level_line():
    lines = draw_error_chart(make_rows([0.5, 0.5], [0.5, 0.5]), 40, "utf-8")
    assert lines[1] == "    50 │" + "●" * 32
    assert not any("●" in line for line in lines[2:])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_without_the_characters_the_chart_is_ascii(encoding):
    assert all(line.isascii() for line in draw_error_chart(ROWS, 60, encoding))


def test_fewer_than_two_errors_are_no_curve():
    assert draw_error_chart([], 60, "utf-8") == []
    assert draw_error_chart(ROWS[:1], 60, "utf-8") == []
    assert draw_error_chart([{"step": 1, "dev_error": None}] * 3, 60, "utf-8") == []
