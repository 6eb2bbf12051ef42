"""Print what `residua predict` finds out about each image: as JSON, as CSV or as a table."""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from residua import deploy
from residua.config.serialize import Json
from residua.console.output import print_json
from residua.file_names import decode_file_name, format_printable_path
from residua.report.format import format_percent_number
from residua.spreadsheet_cells import escape_formula

CLASS_COLUMN_WIDTH = 24  # characters of a class name in the table
TopClasses: TypeAlias = list[tuple[str, float]]  # (class, probability), most probable first


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What is printed about one image.

    error        why it could not be read; "" if it was read
    explanation  path of its Grad-CAM picture; "" if no picture was written
    sorted_to    where --sort-into puts it; "" if it is not sorted
    """

    path: Path
    top: TopClasses
    error: str = ""
    explanation: str = ""
    sorted_to: str | Path = ""


ResultPrinter: TypeAlias = Callable[[ImageResult], None]


def print_result_json(result: ImageResult) -> None:
    record: dict[str, Json] = {"path": decode_file_name(result.path)}
    if result.error:
        record["error"] = result.error
    else:
        record |= deploy.make_prediction_json(result.top)
    if result.explanation:
        record["explanation"] = result.explanation
    if result.sorted_to:
        record["sorted_to"] = decode_file_name(result.sorted_to)
    print_json(record)


def begin_csv_table(top_k: int, *, with_sorted_to: bool = False) -> ResultPrinter:
    """Print the header of a CSV table, and return the function that prints one row per image.

    A row has the path, then `top_k` classes with their probabilities, then the error, then, if
    asked for, the path to which the image is sorted.
    """
    rows = csv.writer(sys.stdout, lineterminator="\n")
    next_columns = [f"{name}{i}" for i in range(2, top_k + 1) for name in ("class", "probability")]
    last_columns = ["error", "sorted_to"] if with_sorted_to else ["error"]
    rows.writerow(["path", "class", "probability", *next_columns, *last_columns])

    def print_csv_row(result: ImageResult) -> None:
        cells = [value for class_and_probability in result.top for value in class_and_probability]
        empty_cells = [""] * (2 * top_k - len(cells))
        row = [format_printable_path(result.path), *cells, *empty_cells, result.error]
        if with_sorted_to:
            row.append(format_printable_path(result.sorted_to))
        rows.writerow(map(escape_formula, row))

    return print_csv_row


def make_table_printer(classes: tuple[str, ...]) -> ResultPrinter:
    """Make the function that prints one line per image: the top classes in columns, then the path.

    The path is last because it may be long.
    """
    width = min(CLASS_COLUMN_WIDTH, max(map(len, classes)))

    def print_table_row(result: ImageResult) -> None:
        path = format_printable_path(result.path)
        if not result.top:
            print(f"not read: {path} {result.error}")
            return
        columns = [
            f"{format_percent_number(p, digits=2):>6} % {truncate_name(name, width):{width}}"
            for name, p in result.top
        ]
        print("  ".join([*columns, path]))

    return print_table_row


def truncate_name(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"
