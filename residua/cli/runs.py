"""List the runs below a folder with their accuracies, and write a page that compares them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import Namespace

from residua import report
from residua.cli.options import add_json_option, add_out_option
from residua.cli.parser import CommandParser
from residua.config.image_views import describe_views
from residua.config.serialize import Json
from residua.console.output import print_note, print_notes, print_result
from residua.errors import ResiduaError, UsageError, describe_os_error
from residua.report.format import format_duration
from residua.report.listed_runs import ListedRun, SkippedFolder
from residua.report.runs_page import RUNS_PAGE, format_accuracy_and_interval, format_run_state

MAX_NAMED_SKIPPED = 20
COLUMNS = ("run", "data", "model", "recipe", "dev right", "test right", "time", "state")

SORT_KEYS: dict[str, Callable[[ListedRun], str | float]] = {
    "newest": lambda run: run.modified,
    "run": lambda run: run.name,
    "data": lambda run: run.data,
    "model": lambda run: run.model,
    "recipe": lambda run: run.recipe,
    "dev": lambda run: -1.0 if run.dev_error is None else 1 - run.dev_error,
    "test": lambda run: -1.0 if run.test_error is None else 1 - run.test_error,
    "time": lambda run: run.seconds or 0.0,
    "state": format_run_state,
}
"""The keys of `--sort`, all in ascending order; the newest is last if keys are equal."""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("runs"),
        help="the folder that contains the runs, at any depth (default: runs)",
    )
    parser.add_argument(
        "--sort",
        choices=tuple(SORT_KEYS),
        default="newest",
        help="the column to sort by, in ascending order (default: newest, which is last)",
    )
    add_out_option(
        parser, f"the page, a file that ends in .html, or its folder (default: FOLDER/{RUNS_PAGE})"
    )
    parser.add_argument("--no-page", action="store_true", help="write no page")
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.out and arguments.no_page:
        raise UsageError("--out names a page and --no-page forbids it: leave one of them out")
    runs, skipped = report.list_runs(arguments.folder)
    runs.sort(key=SORT_KEYS[arguments.sort])
    page = None
    if runs and not arguments.no_page:
        page = write_page_or_explain(runs, skipped, arguments.folder, arguments.out)
    print_notes(describe_skipped_folders(skipped))
    print_notes(describe_damaged_runs(runs))
    facts: dict[str, Json] = {
        "runs": [run.json for run in runs],
        "skipped": [{"folder": folder.name, "why": folder.why} for folder in skipped],
        "page": str(page) if page else None,
    }
    lines = format_run_table(runs)
    if not runs:
        lines = [f"There are no runs in {arguments.folder} yet: residua train DATA stores one."]
    if page:
        lines += ["", f"The page: {page}"]
    print_result(facts, "\n".join(lines), arguments.json)


def write_page_or_explain(
    runs: Sequence[ListedRun],
    skipped: Sequence[SkippedFolder],
    folder: Path,
    out: Path | None,
) -> Path | None:
    """Write the page and return its path.

    If the default page cannot be written, e.g. into another user's folder, a note says why, and
    None is returned.  If the page was asked for, the error is raised instead.
    """
    page = out or folder / RUNS_PAGE
    if page.suffix != ".html":
        page = page / RUNS_PAGE
    try:
        return report.write_runs_page(runs, skipped, folder, page)
    except (ResiduaError, OSError) as error:
        if out:
            raise
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        print_note(f"no page was written: {reason}")
        return None


def describe_skipped_folders(skipped: Sequence[SkippedFolder]) -> list[str]:
    """Write a line per skipped folder, up to `MAX_NAMED_SKIPPED`, and one that counts the rest."""
    lines = [f"skipped {folder.name}: {folder.why}" for folder in skipped[:MAX_NAMED_SKIPPED]]
    if len(skipped) > MAX_NAMED_SKIPPED:
        lines.append(f"{len(skipped) - MAX_NAMED_SKIPPED:,} more were skipped: --json names all")
    return lines


def describe_damaged_runs(runs: Sequence[ListedRun]) -> list[str]:
    """Write a line per damaged run, up to `MAX_NAMED_SKIPPED`, and one that counts the rest."""
    damages = [run.damage for run in runs if run.damage]
    lines = [
        f"{damage}; the run is listed by the result in its run.json"
        for damage in damages[:MAX_NAMED_SKIPPED]
    ]
    if len(damages) > MAX_NAMED_SKIPPED:
        lines.append(f"{len(damages) - MAX_NAMED_SKIPPED:,} more are damaged: --json names all")
    return lines


def format_run_table(runs: Sequence[ListedRun]) -> list[str]:
    """Format one line per run, below a line with the columns' names."""
    rows = [COLUMNS, *map(list_run_texts, runs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return [
        "  ".join(
            text.rjust(width) if name == "time" else text.ljust(width)
            for name, text, width in zip(COLUMNS, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def list_run_texts(run: ListedRun) -> tuple[str, ...]:
    """List the texts of a run's line, one per column."""
    return (
        run.name,
        run.data,
        run.model,
        run.recipe or "-",
        format_accuracy_text(run.dev_error, run.dev_images),
        format_accuracy_text(run.test_error, run.test_images) + describe_views(run.test_views),
        "-" if run.seconds is None else format_duration(run.seconds),
        format_run_state(run),
    )


def format_accuracy_text(error: float | None, count: int | None) -> str:
    """Format accuracy with its 95 % interval, `98.1 % (96.1-99.1)`, or a dash if unknown."""
    if error is None:
        return "-"
    accuracy, interval = format_accuracy_and_interval(error, count)
    return f"{accuracy} %" + (f" ({interval.replace('–', '-')})" if interval else "")
