"""Check photographs before training: every file is decoded, nothing is changed."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import data, report
from residua.cli.options import add_data_argument, add_json_option, add_out_option
from residua.cli.output import print_result
from residua.cli.parser import CommandParser
from residua.config.serialize import Json
from residua.errors import UsageError
from residua.files import write_json, write_text
from residua.report.format import format_counted_noun

if TYPE_CHECKING:
    from residua.data import ImageListing


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "action",
        choices=("check",),
        help="check: decode every file and report damaged files, duplicates and small classes",
    )
    add_data_argument(
        parser,
        "photographs: a folder with one subfolder per class, a CSV table of path,label, "
        "WebDataset shards, or hf:OWNER/NAME on the Hugging Face hub",
    )
    add_out_option(
        parser, "the folder for check.json and the page check.html (default: runs/check-NAME)"
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="CSV",
        help="write a CSV of the usable images, to train on; the images themselves stay",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    listing = data.list_image_dataset(arguments.data)
    if arguments.fix:
        require_separate_files(listing)
    check_result = data.check_dataset(listing)
    facts = check_result.json_summary
    out = arguments.out or Path("runs") / f"check-{check_result.listing.name}"
    page = out / "check.html"
    write_json(out / "check.json", facts)
    write_text(page, report.render_data_report(facts, data.make_check_thumbnails(check_result)))
    if arguments.fix:
        write_text(arguments.fix, data.format_usable_csv(check_result, arguments.fix))
    summary = format_check_summary(facts, page, arguments.fix)
    print_result(facts | {"page": str(page)}, summary, arguments.json)


def require_separate_files(listing: "ImageListing") -> None:
    """Raise UsageError if images lie in shards or tables, so that no CSV can name them."""
    if any(entry.embedded_file for entry in listing.entries):
        raise UsageError(
            f"--fix writes a table of files, but the images of {listing.location} are "
            "stored inside larger files: leave --fix out"
        )


def format_check_summary(facts: dict[str, Json], page: Path, usable_csv: Path | None) -> str:
    """Format one line per problem, then the number of images and the names of the written files."""
    problems, classes = facts["problems"], facts["classes"]
    assert isinstance(problems, list)
    assert isinstance(classes, dict)
    assert isinstance(facts["images"], int)
    lines = [f"{p['kind']:16} {p['path']} {p['detail']}" for p in problems if isinstance(p, dict)]
    images = format_counted_noun(facts["images"], "usable image")
    class_count = format_counted_noun(len(classes), "class", "classes")
    problem_count = format_counted_noun(len(problems), "problem") if problems else "no problems"
    lines += [f"{images} in {class_count}, {problem_count}", f"The page: {page}"]
    if usable_csv:
        lines.append(f"The usable images: {usable_csv}")
    return "\n".join(lines)
