"""Check photographs, before they are trained on."""

from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_json, print_json
from residua.errors import UsageError
from residua.spec.text import Json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("action", choices=("check",), help="check: decode every file, and say what is wrong")
    parser.add_argument("data", help="a folder of photographs, by class; a table of path,label; shards; hf:OWNER/NAME")
    parser.add_argument("--out", type=Path, help="a folder for check.json and the page check.html (default: runs/check-NAME)")
    parser.add_argument(
        "--fix", type=Path, metavar="CSV", help="write a table of the files that are fit to train on; nothing moves"
    )
    add_json(parser)


def run(arguments: Namespace) -> None:
    from residua.data.check import check, table_of, thumbnails
    from residua.data.folder import listed
    from residua.files import write_json, write_text
    from residua.report.check import page

    if arguments.fix and any(entry.source for entry in listed(arguments.data).entries):
        raise UsageError(f"--fix writes a table of files, and the images of {arguments.data} lie in larger ones: leave it out")
    checked = check(arguments.data)
    facts = checked.facts
    out = arguments.out or Path("runs") / f"check-{checked.listing.name}"
    write_json(out / "check.json", facts)
    write_text(out / "check.html", page(facts, thumbnails(checked)))
    if arguments.fix:
        write_text(arguments.fix, table_of(checked, arguments.fix))
    print_json(facts | {"page": str(out / "check.html")}) if arguments.json else print(prose(facts, out, arguments.fix))


def prose(facts: dict[str, Json], out: Path, fixed: Path | None) -> str:
    """A line for each problem, and what there is."""
    problems, classes = facts["problems"], facts["classes"]
    assert isinstance(problems, list)
    assert isinstance(classes, dict)
    lines = [f"{p['kind']:16} {p['path']} {p['detail']}" for p in problems if isinstance(p, dict)]
    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no problems"
    lines.append(f"{facts['images']:,} images of {len(classes)} classes can be decoded, {count}; the page: {out / 'check.html'}")
    return "\n".join([*lines, *([f"what is fit to train on: {fixed}"] if fixed else [])])
