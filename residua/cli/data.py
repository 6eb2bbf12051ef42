"""Check photographs, before they are trained on."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_json_option, print_json
from residua.config.serialize import Json
from residua.errors import UsageError


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "action", choices=("check",), help="check: decode every file, and say what is wrong"
    )
    parser.add_argument(
        "data",
        help="a folder of photographs, by class; a table of path,label; shards; hf:OWNER/NAME",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="a folder for check.json and the page check.html (default: runs/check-NAME)",
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="CSV",
        help="write a table of the files that are fit to train on; nothing moves",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    from residua.data.check import check_dataset, format_usable_csv, make_check_thumbnails
    from residua.data.sources.image_folder import list_image_dataset
    from residua.files import write_json, write_text
    from residua.report.data_report import render_data_report

    if arguments.fix and any(
        entry.embedded_file for entry in list_image_dataset(arguments.data).entries
    ):
        raise UsageError(
            f"--fix writes a table of files, and the images of {arguments.data} lie in larger ones: leave it out"
        )
    check_result = check_dataset(arguments.data)
    facts = check_result.json_summary
    out = arguments.out or Path("runs") / f"check-{check_result.listing.name}"
    write_json(out / "check.json", facts)
    write_text(out / "check.html", render_data_report(facts, make_check_thumbnails(check_result)))
    if arguments.fix:
        write_text(arguments.fix, format_usable_csv(check_result, arguments.fix))
    print_json(facts | {"page": str(out / "check.html")}) if arguments.json else print(
        format_check_summary(facts, out, arguments.fix)
    )


def format_check_summary(
    facts: dict[str, Json], page_folder: Path, fixed_table: Path | None
) -> str:
    """A line for each problem, and what there is."""
    problems, classes = facts["problems"], facts["classes"]
    assert isinstance(problems, list)
    assert isinstance(classes, dict)
    lines = [f"{p['kind']:16} {p['path']} {p['detail']}" for p in problems if isinstance(p, dict)]
    problem_count = (
        f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no problems"
    )
    lines.append(
        f"{facts['images']:,} images of {len(classes)} classes can be decoded, {problem_count}; the page: {page_folder / 'check.html'}"
    )
    return "\n".join(
        [*lines, *([f"what is fit to train on: {fixed_table}"] if fixed_table else [])]
    )
