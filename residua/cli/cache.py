"""List or clear the cache of downloaded weights, data sets and decoded photographs."""

from jsonargparse import Namespace

from residua.cache_folder import CachedFile, clear_cache, get_cache_dir, list_cached_files
from residua.cli.options import add_json_option
from residua.cli.parser import CommandParser
from residua.console.output import print_result
from residua.report.format import format_mebibytes


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "action",
        choices=("list", "clear"),
        help="list: what is in the cache; clear: delete it, so that it is fetched or made again "
        "when it is needed",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="only what matches by name, e.g. 'weights/*' or 'photos/*' (default: all)",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    is_clearing = arguments.action == "clear"
    files = (clear_cache if is_clearing else list_cached_files)(arguments.pattern)
    facts = {
        "folder": str(get_cache_dir()),
        "files": [{"name": f.name, "bytes": f.bytes, "kind": f.kind} for f in files],
    }
    text = format_cache_table(files, is_clearing)
    if not files and arguments.pattern != "*":
        text = f"nothing in {get_cache_dir()} matches {arguments.pattern}"
    print_result(facts, text, arguments.json)


def format_cache_table(files: list[CachedFile], is_clearing: bool) -> str:
    """Format one line per file, the largest last, and a line with their sum."""
    lines = [
        f"{format_mebibytes(file.bytes):>12}  {file.kind:18} {file.name}"
        for file in sorted(files, key=lambda file: file.bytes)
    ]
    total = format_mebibytes(sum(file.bytes for file in files))
    state = "deleted from" if is_clearing else "in"
    return "\n".join([*lines, f"{total} {state} {get_cache_dir()}"])
