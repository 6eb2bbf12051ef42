"""The entrance of the command line: parse the arguments, run one command, report errors."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import NoReturn

from residua.cli.output import print_note
from residua.cli.parser import CommandParser
from residua.cli.progress import update_bars_rarely_in_logs
from residua.errors import ResiduaError, UsageError, unknown_name_error

COMMANDS = (
    "study",
    "lesion",
    "signals",
    "train",
    "evaluate",
    "predict",
    "export",
    "serve",
    "data",
    "show",
    "models",
    "report",
    "deepen",
    "residualize",
    "convert",
)
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

    0: done; 1: something failed; 2: the request makes no sense; 130: stopped by Ctrl-C.
    """
    update_bars_rarely_in_logs()
    words = sys.argv[1:] if arguments is None else arguments
    return run_reporting_errors(lambda: run_command(words))


def run_command(words: list[str]) -> None:
    """Run the command that the first word names with the other words as its arguments."""
    if not words:
        raise UsageError("no command was given: residua --help lists them")
    first_word, *others = words
    if first_word in ("-h", "--help"):
        print(format_overview(), end="")
    elif first_word == "--version":
        print(f"residua {version('residua')}")
    elif first_word.startswith("-"):
        raise unknown_name_error("option", first_word, ["--help", "--version"])
    elif first_word not in COMMANDS:
        raise unknown_name_error("command", first_word, COMMANDS)
    else:
        command = import_command(first_word)
        parsed = make_command_parser(first_word, command).parse_args(others)
        if first_word not in DISTRIBUTED_COMMANDS and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UsageError(f"{first_word} runs in a single process: start it without torchrun")
        command.run(parsed)


def import_command(name: str) -> ModuleType:
    """The module of a command.

    Its docstring is the command's description, and it defines `add_arguments` and `run`.
    """
    return import_module(f"residua.cli.{name}")


def make_command_parser(name: str, command: ModuleType) -> CommandParser:
    parser = CommandParser(prog=f"residua {name}", description=command.__doc__)
    command.add_arguments(parser)
    parser.add_config_option()
    return parser


def format_overview() -> str:
    """The help of `residua` itself: one line per command."""
    summaries = {name: str(import_command(name).__doc__).splitlines()[0] for name in COMMANDS}
    return OVERVIEW.format(
        commands="\n".join(f"  {name:12} {summary}" for name, summary in summaries.items())
    )


def run_reporting_errors(action: Callable[[], None]) -> int:
    """Run `action` and return an exit code.

    An error that a user can fix is printed on one line.
    """
    try:
        action()
    except ResiduaError as error:
        return report_failure(str(error), error.exit_code)
    except KeyboardInterrupt:
        return report_failure("stopped; files that were written before are complete", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as `head`, has ended
        return 1
    except OSError as error:  # no permission, a full disk
        reason = error.strerror or str(error)
        return report_failure(f"{reason}: {error.filename}" if error.filename else reason, 1)
    return 0


def exit_process(exit_code: int) -> NoReturn:
    """End the process with `exit_code`.

    In a distributed run (`WORLD_SIZE` above 1) Python's cleanup is skipped: threads that the gloo
    backend leaves behind may abort the process during the cleanup, although its work is done.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def report_failure(message: str, exit_code: int) -> int:
    print_note(message)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
