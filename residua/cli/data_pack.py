"""The action `pack` of `residua data`: shards with an index, for large data sets and servers."""

from collections.abc import Sequence

from jsonargparse import Namespace

from residua import data
from residua.cli.image_options import apply_to_listing
from residua.cli.parser import CommandParser
from residua.console.output import DataSummaryRecorder, print_note, print_result
from residua.console.progress import ProgressBar
from residua.errors import UsageError
from residua.report.format import format_counted_noun, format_mebibytes, quote_path

PACK_OPTIONS = ("size", "quality", "shard_mib")
MAX_PRINTED_PROBLEMS = 10  # of the data set, and of the photos that are left out
WORST_KINDS = ("damaged", "truncated", "unreadable")  # a single one may stand for many photos


def add_pack_options(parser: CommandParser) -> None:
    """Add the options that only `pack` has."""
    parser.add_argument(
        "--size",
        type=int,
        help="pack: store each photograph as JPEG with a shorter side of at most this many pixels "
        "(default: store the files as they are); bench: the side of the square crops in pixels",
    )
    parser.add_argument(
        "--quality",
        type=int,
        help="pack: the quality of JPEG with --size, from 1 to 95 (default: 90)",
    )
    parser.add_argument(
        "--shard-mib",
        type=int,
        help="pack: the size of a shard, in MiB, about (default: 256)",
    )


def pack(arguments: Namespace) -> None:
    """Pack the photographs into the folder `--out`, and print a summary."""
    options = make_pack_options(arguments)
    if arguments.out is None:
        raise UsageError("pack needs the folder for the shards: add --out DIR")
    listing = apply_to_listing(data.list_image_dataset(arguments.data), arguments)
    print_summary = DataSummaryRecorder(is_main=True)
    print_summary(data.summarize_listing(listing))
    print_problems([p for p in listing.problems if p.kind not in data.DETAILED_KINDS], "")
    with ProgressBar("photo") as bar:
        result = data.pack_dataset(
            listing,
            arguments.out,
            options,
            lambda done, total: bar.update("packing", done, total),
        )
    print_problems(result.problems[len(listing.problems) :], "left out: ")
    photos = format_counted_noun(result.photos, "photograph")
    shards = format_counted_noun(result.shards, "shard")
    text = (
        f"{photos} in {shards}, {format_mebibytes(result.bytes)}: {result.folder}\n"
        f"Next: residua train {quote_path(result.folder)}"
    )
    print_result(result.to_json(options) | print_summary.json, text, arguments.json)


def print_problems(problems: Sequence["data.DataProblem"], prefix: str) -> None:
    """Print a sentence on each of the first problems, the worst before the others."""
    ordered = sorted(problems, key=lambda problem: problem.kind not in WORST_KINDS)
    for problem in ordered[:MAX_PRINTED_PROBLEMS]:
        print_note(f"{prefix}{problem.path} {problem.detail}")
    if (more := len(problems) - MAX_PRINTED_PROBLEMS) > 0:
        print_note(f"{format_counted_noun(more, 'more problem')}, see --json")


def make_pack_options(arguments: Namespace) -> "data.PackOptions":
    """Make the options of a pack; UsageError if one is out of range or does not apply."""
    size, quality, shard_mib = (arguments[name] for name in PACK_OPTIONS)
    if size is not None and size < 1:
        raise UsageError(f"--size {size} is invalid: give the shorter side in pixels, e.g. 256")
    if quality is not None and size is None:
        raise UsageError("--quality applies only with --size: without it, files stay as they are")
    if quality is not None and not 1 <= quality <= 95:
        raise UsageError(f"--quality {quality} is invalid: give a number from 1 to 95")
    if shard_mib is not None and shard_mib < 1:
        raise UsageError(f"--shard-mib {shard_mib} is invalid: give 1 or more")
    if size is None and (arguments.max_pixels is not None or arguments.white_level is not None):
        raise UsageError(
            "pack decodes photographs only with --size: give --max-pixels and --white-level to "
            "the commands that read the shards"
        )
    given = {"size": size, "quality": quality, "shard_mib": shard_mib}
    return data.PackOptions(**{name: value for name, value in given.items() if value is not None})
