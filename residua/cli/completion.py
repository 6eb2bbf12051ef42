"""Completes commands, options and their values for the shell's tab key, through argcomplete."""

import os
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib.util import find_spec

REQUEST_VARIABLE = "_ARGCOMPLETE"
"""The environment variable by which argcomplete's shell code asks a program for completions.

Its value is the number of words at the start of the line that stand for the program.
"""


def is_completion_requested() -> bool:
    """Return whether a shell asks for completions, and argcomplete is installed to give them."""
    return REQUEST_VARIABLE in os.environ and find_spec("argcomplete") is not None


def print_completions(
    commands: Sequence[str], make_parser: Callable[[str], ArgumentParser]
) -> None:
    """Answer a shell's request for completions, and end the process.

    The request is in the environment.  `make_parser` makes the parser of a command.
    """
    import argcomplete
    from argcomplete.lexers import split_line

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    _, _, _, typed_words, _ = split_line(line, point)
    program_words = int(os.environ[REQUEST_VARIABLE])
    command = typed_words[program_words] if len(typed_words) > program_words else ""
    if command in commands:
        os.environ[REQUEST_VARIABLE] = str(program_words + 1)  # the command belongs to the program
        make_parser(command).parse_args([])  # jsonargparse calls argcomplete
    parser = ArgumentParser()
    parser.add_argument("--version", action="store_true")
    parser.add_argument("command", choices=commands)
    argcomplete.autocomplete(parser)
