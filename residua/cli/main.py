"""`residua COMMAND ...`: parse, call one function, print."""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from residua.cli.parser import Parser, complain
from residua.errors import ResiduaError, UsageError

COMMANDS = (
    "study", "signals", "lesion", "train", "evaluate", "predict", "export", "serve", "data", "show", "models", "report", "deepen",
    "residualize", "convert",
)  # fmt: skip
TOGETHER = ("train", "evaluate")  # what several processes, started by torchrun, do together
DESCRIPTION = "Deep residual networks for image recognition: build, train and study them."


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a request that makes no sense, 130 after Ctrl-C, 1 for any other failure."""
    parser = Parser(prog="residua", description=DESCRIPTION, version=version("residua"))
    subcommands = parser.add_subcommands(dest="command", required=True)
    modules = {name: import_module(f"residua.cli.{name}") for name in COMMANDS}
    for name, module in modules.items():
        subparser = Parser(description=module.__doc__)
        module.add_arguments(subparser)
        subparser.add_argument("--config", action="config", help="a YAML file with any of these options (see --print_config)")
        subcommands.add_subcommand(name, subparser, help=str(module.__doc__).splitlines()[0])
    parsed = parser.parse_args(arguments)
    if parsed.command not in TOGETHER and os.environ.get("WORLD_SIZE", "1") != "1":
        return fail(f"{parsed.command} is for one process: start it without torchrun", UsageError.exit_code)
    try:
        modules[parsed.command].run(parsed[parsed.command])
    except ResiduaError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("stopped at once; what was written before is whole", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        return 1
    except OSError as error:  # no permission, a full disk
        return fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 1)
    return 0


def leave(code: int) -> NoReturn:
    """End the process; one of several at once, for threads that gloo has left may abort it on its way out, its work done."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def fail(sentence: str, exit_code: int) -> int:
    complain(f"residua: {sentence}")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
