"""The parser of a command's arguments: jsonargparse with our own error messages and help.

jsonargparse is used for configuration files (`--config`, `--print_config`).  Its own error messages
show Python types, so numbers, choices, unknown options and missing arguments are checked here.
"""

import sys
from argparse import Action, ArgumentError, ArgumentTypeError
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NoReturn

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
)

from residua.cli.output import print_note
from residua.config.name_parts import UNIT_PARTS
from residua.errors import UsageError, unknown_name_error


class OptionValueError(ArgumentTypeError, ValueError):
    """The value of an option is impossible; the message names the option."""


class PlainHelpFormatter(DefaultHelpFormatter):
    """Help that states an option's default, and no Python types."""

    def _get_help_string(self, action: Action) -> str:
        help_text = str(action.help or "")
        if action.option_strings and action.required:
            return f"{help_text} (required)"
        is_silent = action.default in (None, False, "", []) or action.default == "==SUPPRESS=="
        if is_silent or "(default" in help_text or not (action.option_strings or action.nargs):
            return help_text
        values = action.default if isinstance(action.default, list) else [action.default]
        return f"{help_text} (default: {' '.join(map(str, values))})"


class ConfigFileAction(ActionConfigFile):
    """Reads options from a YAML file, or from YAML text."""

    def __call__(self, *arguments: Any) -> None:
        try:
            super().__call__(*arguments)  # type: ignore[no-untyped-call]
        except TypeError:
            message = f"{arguments[2]} is neither a file nor YAML with options"
            raise ArgumentError(self, message) from None


class CommandParser(ArgumentParser):
    """Parses the arguments of one command.

    Arguments that make no sense end the process with one line on standard error and exit code 2.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=PlainHelpFormatter, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> Action:
        """Add an argument whose value is checked by `type`.

        Numbers and `choices` are checked by parsers whose error messages name the argument.
        """
        if settings.get("type") in (int, float):
            settings["type"] = make_number_parser(names[-1], settings["type"])
        if choices := settings.pop("choices", None):
            settings["type"] = make_choice_parser(names[-1], choices)
            settings["metavar"] = f"{{{','.join(choices)}}}"
        action: Action = super().add_argument(*names, **settings)
        return action

    def add_config_option(self) -> None:
        """Add `--config` and `--print_config`."""
        self.add_argument(
            "--config", action=ConfigFileAction, help="a YAML file with any of these options"
        )
        print_config = self._option_string_actions["--print_config"]
        print_config.help = "print all options as YAML, for --config, and stop"

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **settings: Any
    ) -> Namespace:
        arguments = sys.argv[1:] if args is None else list(args)
        self.require_known_options(arguments)
        return super().parse_args(arguments, *others, **settings)

    def require_known_options(self, arguments: list[str]) -> None:
        """End the process if an argument looks like an option that does not exist."""
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag == "--":
                return
            if not flag.startswith("--") or " " in flag or flag in self._option_string_actions:
                continue
            if flag[2:] in UNIT_PARTS:
                example = f"--model cifar-resnet20,{flag[2:]}=..."
                self.error(f"no option {flag!r}: write it into the network's name, as in {example}")
            options = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(str(unknown_name_error("option", flag, options)))

    def validate(self, namespace: Namespace, *others: Any, **settings: Any) -> None:
        """Check parsed arguments; raises UsageError if a required one is missing."""
        for action in self._actions:
            if action.required and namespace.get(action.dest) is None:
                name = action.dest.upper()
                raise UsageError(f"{name} is missing: see {self.prog} --help")
        super().validate(namespace, *others, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print_note(explain_parse_error(message, ex), self.prog)
        raise SystemExit(2)


def explain_parse_error(message: str, error: BaseException | None) -> str:
    """Explain a parse error on one line.

    Returns the message of the `OptionValueError` that caused `error`.  If there was none, returns
    the argument's name and message if `error` has a name, or else `message`.
    """
    cause = error
    while cause is not None:
        if isinstance(cause, OptionValueError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ArgumentError) and error.argument_name:
        message = f"{error.argument_name}: {error.message}"
    return " ".join(message.split())


def make_number_parser(
    option: str, kind: type[int] | type[float]
) -> Callable[[object], int | float]:
    """Make the `type` of an option that takes a number, from the command line or from YAML."""
    noun = "a whole number" if kind is int else "a number"

    def parse_number(value: object) -> int | float:
        mistake = OptionValueError(f"{option}: {value} is not {noun}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise mistake
        try:
            number = kind(value)
        except (ValueError, OverflowError):
            raise mistake from None
        if not isfinite(number) or (not isinstance(value, str) and number != value):
            raise mistake
        return number

    return parse_number


def make_choice_parser(option: str, choices: Sequence[str]) -> Callable[[object], str]:
    """Make the `type` of an option that takes one of a few words."""

    def parse_choice(value: object) -> str:
        if value not in choices:
            raise OptionValueError(str(unknown_name_error(option, str(value), choices)))
        return str(value)

    return parse_choice
