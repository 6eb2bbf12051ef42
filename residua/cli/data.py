"""Check photographs, pack them into shards, or measure how fast they become batches."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import data, report
from residua.cli.data_bench import BENCH_OPTIONS, add_bench_options, bench
from residua.cli.data_pack import PACK_OPTIONS, add_pack_options, pack
from residua.cli.image_options import (
    add_max_pixels_option,
    add_white_level_option,
    apply_to_listing,
    check_image_options,
)
from residua.cli.options import add_data_argument, add_json_option, add_out_option
from residua.cli.parser import CommandParser
from residua.config.serialize import Json
from residua.console.output import print_data_summary, print_note, print_result
from residua.errors import UsageError
from residua.files import render_json, write_text, write_text_files
from residua.report.format import format_counted_noun, quote_path

if TYPE_CHECKING:
    from residua.data import DatasetCheck, ImageListing


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "pack", "bench"),
        help="check: decode every file and report damaged files, duplicates and small classes; "
        "pack: write WebDataset shards with an index, for large data sets and for servers; "
        "bench: measure how fast they become training batches, and what binds",
    )
    add_data_argument(
        parser,
        "photographs: a folder with one subfolder per class, a CSV table of path,label, "
        "WebDataset shards, an address such as https://HOST/train-{000..123}.tar, or "
        "hf:OWNER/NAME on the Hugging Face hub",
    )
    add_out_option(
        parser,
        "the folder for check.json and the page check.html (default: runs/check-NAME); or, for "
        "pack, for the shards",
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="CSV",
        help="write a CSV of the usable images, to train on; the images themselves stay",
    )
    add_max_pixels_option(parser)
    add_white_level_option(parser)
    add_pack_options(parser)
    add_bench_options(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    check_image_options(arguments)
    require_options_of_action(arguments)
    {"check": check, "pack": pack, "bench": bench}[arguments.action](arguments)


def require_options_of_action(arguments: Namespace) -> None:
    """Raise UsageError if an option is given that only another action has."""
    options_by_action = {
        "check": ("fix", "out"),
        "pack": (*PACK_OPTIONS, "out"),
        "bench": BENCH_OPTIONS,
    }
    own = options_by_action[arguments.action]
    others = dict.fromkeys(name for names in options_by_action.values() for name in names)
    if given := [name for name in others if name not in own and arguments[name] is not None]:
        option = given[0].replace("_", "-")
        raise UsageError(f"--{option} does not apply to data {arguments.action}: leave it out")


def check(arguments: Namespace) -> None:
    """Check the photographs, and write the record and the page of the check."""
    listing = apply_to_listing(data.list_image_dataset(arguments.data), arguments)
    if arguments.fix:
        require_separate_files(listing)
    checked = data.check_dataset(listing)
    summary = data.summarize_checked_data(checked)
    print_data_summary(summary)
    if damaged := data.delete_damaged_caches(listing.location):
        print_note(f"{damaged} damaged caches of its decoded images were deleted")
    facts = checked.json_summary | {
        key: value for key, value in summary.json.items() if key != "classes"
    }
    out = arguments.out or Path("runs") / f"check-{checked.listing.name}"
    page = out / "check.html"
    understood = report.UnderstoodData(
        summary.split_phrase,
        (*summary.details, *summary.notes),
        suggest_repair(checked, arguments),
        checked.class_by_image,
    )
    thumbnails = data.make_check_thumbnails(checked)
    page_text = report.render_data_report(facts, thumbnails, understood)
    write_text_files(out, {"check.json": render_json(facts), page.name: page_text})
    if arguments.fix:
        write_text(arguments.fix, data.format_usable_csv(checked, arguments.fix))
    text = format_check_summary(facts, page, arguments.fix)
    print_result(facts | {"page": str(page)}, text, arguments.json)


def suggest_repair(checked: "DatasetCheck", arguments: Namespace) -> list[str]:
    """Suggest commands that make a table of the usable images, and train on it.

    Without problems that a table solves, the only command is to train on the data as they are.
    There is none if no image is usable.
    """
    listing, location = checked.listing, quote_path(arguments.data)
    usable_count = len(list(checked.iterate_usable_entries()))
    if not usable_count:
        return []
    options = "".join(
        f" --{name.replace('_', '-')} {arguments[name]}"
        for name in ("max_pixels", "white_level")
        if arguments[name] is not None
    )
    if arguments.fix:
        return [f"residua train {quote_path(arguments.fix)}{options}"]
    holds_files = not any(entry.embedded_file for entry in listing.entries)
    if usable_count == len(listing.entries) or not holds_files:
        return [f"residua train {location}{options}"]
    table = quote_path(f"{listing.name}-usable.csv")
    return [
        f"residua data check {location}{options} --fix {table}",
        f"residua train {table}{options}",
    ]


def require_separate_files(listing: "ImageListing") -> None:
    """Raise UsageError if images are stored inside larger files, e.g. shards.

    A CSV file can list only images that are separate files.
    """
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
