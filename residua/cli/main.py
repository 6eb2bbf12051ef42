"""`residua COMMAND ...`: parse, call one function, print."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from residua.cli.parser import CommandParser, print_error_on_local_rank0
from residua.errors import ResiduaError, UsageError

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
DISTRIBUTED_COMMANDS = (
    "train",
    "evaluate",
)  # what several processes, started by torchrun, do together
DESCRIPTION = "Deep residual networks for image recognition: build, train and study them."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a request that makes no sense, 130 after Ctrl-C, 1 for any other failure."""
    parser = CommandParser(prog="residua", description=DESCRIPTION, version=version("residua"))
    subcommands = parser.add_subcommands(dest="command", required=True)
    modules = {name: import_module(f"residua.cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        subparser = CommandParser(description=module.__doc__)
        module.add_arguments(subparser)
        subparser.add_argument(
            "--config",
            action="config",
            help="a YAML file with any of these options (see --print_config)",
        )
        subcommands.add_subcommand(name, subparser, help=str(module.__doc__).splitlines()[0])
    parsed = parser.parse_args(arguments)
    if parsed.command not in DISTRIBUTED_COMMANDS and os.environ.get("WORLD_SIZE", "1") != "1":
        return report_failure(
            f"{parsed.command} is for one process: start it without torchrun", UsageError.exit_code
        )
    return run_reporting_errors(lambda: modules[parsed.command].run(parsed[parsed.command]))


def run_reporting_errors(action: Callable[[], None]) -> int:
    """Do it; every failure that a user can do something about ends in one sentence on standard error, and an exit code."""
    try:
        action()
    except ResiduaError as error:
        return report_failure(str(error), error.exit_code)
    except KeyboardInterrupt:
        return report_failure("stopped at once; what was written before is whole", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1
    except OSError as error:  # no permission, a full disk
        return report_failure(
            f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1
        )
    return 0


def exit_process(exit_code: int) -> NoReturn:
    """End the process; one of several at once, for threads that gloo has left may abort it on its way out, its work done."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def report_failure(message: str, exit_code: int) -> int:
    print_error_on_local_rank0(f"residua: {message}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
