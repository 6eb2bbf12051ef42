# PYTHON_ARGCOMPLETE_OK
"""The entry point of the command line: parse the arguments, run one command, report errors."""

import ast
import os
import sys
from collections.abc import Callable
from errno import ENOSPC
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from residua import cli, training
from residua.cli.completion import is_completion_requested, print_completions
from residua.cli.streams import (
    discard_further_output,
    flush_standard_output,
    prepare_streams_and_environment,
)
from residua.cli.unexpected_error import save_traceback_and_describe
from residua.console.output import print_note
from residua.downloads import forbid_network
from residua.errors import ResiduaError, UsageError, describe_os_error, unknown_name_error
from residua.version import __version__

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from residua.cli import CommandParser

COMMANDS = (
    "study",
    "lesion",
    "signals",
    "train",
    "find-lr",
    "evaluate",
    "predict",
    "export",
    "push",
    "serve",
    "data",
    "show",
    "models",
    "cache",
    "recipes",
    "report",
    "runs",
    "deepen",
    "residualize",
    "convert",
)
OTHER_SPELLINGS = {
    "explain": "predict --explain",
    "lr-find": "find-lr",
    "calibrate": "evaluate --calibrate",
    "check": "data check",
    "classify": "predict",
    "finetune": "train --from",
    "fine-tune": "train --from",
    "quantize": "export --int8",
    "resume": "train --resume",
    "test": "evaluate",
    "upload": "push",
}
"""Commands that people may expect, with those that do it here."""
DISTRIBUTED_COMMANDS = ("train", "evaluate")  # those that several processes of torchrun can share
OVERVIEW = """\
usage: residua COMMAND [options]

Deep residual networks for image recognition: build, train and study them.

commands:
{commands}

options:
  -h, --help   print this overview, or the options of a command: residua COMMAND --help
  --version    print the version
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    The exit code is 0 if the command succeeded, 1 if something failed, 2 if the arguments are
    invalid, and 130 if Ctrl-C stopped the command.
    """
    prepare_streams_and_environment()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # torch's stack traces of lost connections; the errors themselves are reported
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_completion_requested():
        print_completions(COMMANDS, make_parser)
    words = sys.argv[1:] if arguments is None else arguments
    return run_reporting_errors(lambda: run_command(words))


def run_command(words: list[str]) -> None:
    """Run the command named by the first word; the other words are its arguments.

    Raises UsageError if there is no such command.
    """
    if not words:
        raise UsageError("no command was given: see residua --help for the commands")
    first_word, *others = words
    if first_word in ("-h", "--help"):
        print(format_overview(), end="")
    elif first_word == "--version":
        print(f"residua {__version__}")
    elif first_word.startswith("-"):
        raise unknown_name_error("option", first_word, ["--help", "--version"])
    elif first_word in OTHER_SPELLINGS:
        raise UsageError(
            f"there is no command {first_word!r}: write residua {OTHER_SPELLINGS[first_word]}"
        )
    elif first_word not in COMMANDS:
        raise unknown_name_error("command", first_word, COMMANDS)
    else:
        parser = make_parser(first_word)
        if os.environ.get("WORLD_SIZE", "1") == "1":
            parsed = parser.parse_args(others)
        elif first_word in DISTRIBUTED_COMMANDS:
            parsed = parse_and_notify_ranks(parser, others)
        else:
            parser.parse_args(others)
            raise UsageError(f"{first_word} runs in a single process: start it without torchrun")
        if parsed.get("offline"):
            forbid_network()
        import_command(first_word).run(parsed)


def parse_and_notify_ranks(parser: "CommandParser", words: list[str]) -> "Namespace":
    """Parse the arguments of one process of a distributed run.

    If they are invalid, this process tells the others, which would otherwise wait for it.
    """
    try:
        return parser.parse_args(words)
    except (SystemExit, UsageError) as error:
        if isinstance(error, UsageError) or error.code:
            training.report_failure_before_joining("its arguments are invalid")
        raise


def make_parser(command: str) -> "CommandParser":
    """Make the parser of a command's arguments."""
    return cli.make_command_parser(command, import_command(command))


def import_command(name: str) -> ModuleType:
    """Import the module of a command.

    The module's docstring is the command's help text.  The module defines `add_arguments` and
    `run`.
    """
    return import_module(module_of_command(name))


def module_of_command(name: str) -> str:
    """Return the module of a command, whose name may have hyphens."""
    return f"residua.cli.{name.replace('-', '_')}"


def format_overview() -> str:
    """Format the help of `residua` itself, with one line per command."""
    summaries = {name: read_summary(name) for name in COMMANDS}
    return OVERVIEW.format(
        commands="\n".join(f"  {name:12} {summary}" for name, summary in summaries.items())
    )


def read_summary(command: str) -> str:
    """Read the first line of a command's docstring, without importing its module."""
    spec = find_spec(module_of_command(command))
    assert spec is not None
    source = Path(str(spec.origin)).read_text(encoding="utf-8")
    return str(ast.get_docstring(ast.parse(source))).splitlines()[0]


def run_reporting_errors(action: Callable[[], None]) -> int:
    """Run `action` and return an exit code.

    Errors are printed on one line.  If residua itself is at fault, the traceback is written to a
    file that the line names.
    """
    try:
        action()
        flush_standard_output()
    except ResiduaError as error:
        return report_failure(str(error), error.exit_code, error.printed_by_every_rank)
    except KeyboardInterrupt:
        return report_failure("stopped; files that were written before are complete", 130)
    except BrokenPipeError:
        discard_further_output()  # its reader, such as `head`, has ended
        return 1
    except OSError as error:  # no permission, a full disk
        if error.filename is None and error.errno == ENOSPC:
            discard_further_output()  # which may be what is full
        return report_failure(describe_os_error(error), 1)
    except Exception as error:
        return report_failure(save_traceback_and_describe(error), 1, on_every_rank=True)
    return 0


def exit_skipping_rank_cleanup(exit_code: int) -> NoReturn:
    """End the process with `exit_code`.

    In a distributed run (`WORLD_SIZE` above 1) Python's cleanup is skipped.  Threads that the gloo
    backend leaves behind could otherwise abort the process during the cleanup, after its work is
    done.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def report_failure(message: str, exit_code: int, on_every_rank: bool = False) -> int:
    message = " ".join(message.splitlines())
    print_note(message, on_every_rank=on_every_rank, is_error=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
