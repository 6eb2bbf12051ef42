"""The parser of a command's arguments: jsonargparse with our own error messages and help.

jsonargparse is used for its configuration files (`--config`, `--print_config`).  Its own error
messages show Python types, so this module checks numbers, choices, unknown options and missing
arguments itself.
"""

import sys
from argparse import SUPPRESS, Action, ArgumentError, ArgumentTypeError
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
)

from residua.cli.argument_hints import (
    explain_extra_argument,
    explain_flag_value,
    explain_unknown_option,
)
from residua.cli.config_file import read_config_options
from residua.cli.option_groups import group_options
from residua.console.output import print_note
from residua.errors import UsageError, unknown_name_error
from residua.file_names import decode_file_name


class OptionValueError(ArgumentTypeError, ValueError):
    """The value of an option is invalid; the message names the option."""


class HelpWithoutTypes(DefaultHelpFormatter):
    """Formats help texts that state the default of an option, but no Python types."""

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
    """Reads options from a YAML file, or from YAML text given on the command line."""

    def __call__(self, *arguments: Any) -> None:
        parser, namespace, value = arguments[:3]
        # our own reading has limits, and hands on only texts, flags and lists of texts
        values = read_config_options(value, parser.list_config_options())
        request = vars(parser).pop("print_config", None)  # else only these values were printed
        parsed = parser.parse_object(values, defaults=False, _skip_validation=True)
        if request is not None:
            parser.print_config = request
        for name in values:
            namespace[name] = parsed[name]


class CommandParser(ArgumentParser):
    """Parses the arguments of one command.

    Invalid arguments end the process with one line on standard error and exit code 2.
    """

    def __init__(self, **settings: Any) -> None:
        self.optional_values: dict[str, Sequence[str]] = {}  # by option, of those with nargs="?"
        self.given: list[str] = []  # the arguments, as they were written
        super().__init__(allow_abbrev=False, formatter_class=HelpWithoutTypes, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> Action:
        """Add an argument, with error messages that name it.

        The types int, float and Path, and `choices`, are replaced by the parsers of this module.
        `completions`, by default the `choices`, are the values that the shell's tab key offers.
        """
        completions = settings.pop("completions", settings.get("choices"))
        if settings.get("type") in (int, float):
            settings["type"] = make_number_parser(names[-1], settings["type"])
        if settings.get("type") is Path:
            settings["type"] = make_path_parser(names[-1])
        if choices := settings.pop("choices", None):
            settings["type"] = make_choice_parser(names[-1], choices)
            settings["metavar"] = f"{{{','.join(choices)}}}"
            if settings.get("nargs") == "?":
                self.optional_values[names[-1]] = choices
        action: Action = super().add_argument(*names, **settings)
        if completions:
            vars(action)["completer"] = lambda **_: list(completions)  # read by argcomplete
        return action

    def add_config_options(self) -> None:
        """Add the options `--config` and `--print_config`, which read and print options as YAML."""
        self.add_argument(
            "--config", action=ConfigFileAction, help="a YAML file with any of these options"
        )
        print_config = self._option_string_actions["--print_config"]
        print_config.help = "print all options as YAML, for --config, and stop"

    def list_config_options(self) -> dict[str, Action]:
        """List the arguments that `--config` can set, by name."""
        no_settings = ("help", "config", "print_config")
        return {
            action.dest: action
            for action in self._actions
            if action.dest not in no_settings and action.default != SUPPRESS
        }

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **settings: Any
    ) -> Namespace:
        arguments = sys.argv[1:] if args is None else list(args)
        self.given = arguments
        self.require_known_options(arguments)
        return super().parse_args(self.insert_flag_values(arguments), *others, **settings)

    def insert_flag_values(self, arguments: list[str]) -> list[str]:
        """Add the value to an option used as a flag, so that it does not take the next word.

        This concerns options whose value is optional and one of a few words.
        """
        completed = list(arguments)
        for i, option in enumerate(arguments):
            if option == "--":
                break
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            if option in self.optional_values and following not in self.optional_values[option]:
                completed[i] = f"{option}={self._option_string_actions[option].const}"
        return completed

    def require_known_options(self, arguments: list[str]) -> None:
        """End the process at an option that this command does not have, or that takes no value."""
        options = self._option_string_actions
        for i, argument in enumerate(arguments):
            flag, equals, value = argument.partition("=")
            if flag == "--":
                return
            if not flag.startswith("--") or " " in flag:
                continue
            if flag not in options:
                self.error(explain_unknown_option(arguments, i, options))
            if equals and options[flag].nargs == 0:
                self.error(explain_flag_value(flag, value))

    def dump(self, cfg: Namespace, *others: Any, **settings: Any) -> str:
        """Format options as YAML, in ASCII if standard output cannot print all characters."""
        printable = cfg.clone()
        for name, value in vars(cfg).items():
            if isinstance(value, list):
                printable[name] = [make_yaml_value(item) for item in value]
            else:
                printable[name] = make_yaml_value(value)
        text: str = super().dump(printable, *others, **settings)
        try:
            text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return str(yaml.safe_dump(yaml.safe_load(text), sort_keys=False))
        return text

    def validate(self, namespace: Namespace, *others: Any, **settings: Any) -> None:
        """Check parsed arguments; raise UsageError if a required one is missing."""
        for action in self._actions:
            if action.required and namespace.get(action.dest) is None:
                name = action.option_strings[-1] if action.option_strings else action.dest.upper()
                raise UsageError(f"{name} is missing: see {self.prog} --help")
        super().validate(namespace, *others, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unused = message.removeprefix("unrecognized arguments: ")
        if unused != message:
            message = self.explain_unused_words(unused)
        print_note(explain_parse_error(message, ex), self.prog, is_error=True)
        raise SystemExit(2)

    def explain_unused_words(self, unused: str) -> str:
        """Say that the first of the `unused` words is no option, or is an extra argument."""
        first, options = unused.split(" ")[0], self._option_string_actions
        if first.startswith("-"):
            return f"there is no option {first!r}: see {self.prog} --help"
        takes_list = any(
            action.nargs == "+" for action in self._actions if not action.option_strings
        )
        for option, values in self.optional_values.items():
            if (option, first) in zip(self.given, self.given[1:], strict=False):
                return str(unknown_name_error("value", first, values, option))
        return explain_extra_argument(unused, self.given, options, takes_list)


def make_yaml_value(value: object) -> object:
    """Convert an option's value to one that YAML can hold: paths and texts become text."""
    return decode_file_name(value) if isinstance(value, str | Path) else value


def explain_parse_error(message: str, error: BaseException | None) -> str:
    """Explain a parse error on one line.

    If an `OptionValueError` caused `error`, its message is returned.  Otherwise the result is the
    argument's name and message if `error` names an argument, and `message` if not.
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
    """Make the function that parses an option's number, for the argument `type` of `add_argument`.

    The number comes from the command line as text, or from YAML.  The function raises
    OptionValueError for anything that is not a finite number of type `kind`.
    """
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


def make_path_parser(option: str) -> Callable[[object], Path]:
    """Make the function that parses an option's path, for the argument `type` of `add_argument`.

    Unlike jsonargparse, it keeps every text unchanged, even one that would be a YAML value.  The
    function raises OptionValueError for an empty text.
    """

    def parse_path(value: object) -> Path:
        if not isinstance(value, str | Path) or not str(value):
            raise OptionValueError(f"{option} is empty: give a path")
        return Path(value)

    return parse_path


def make_choice_parser(option: str, choices: Sequence[str]) -> Callable[[object], str]:
    """Make the function that accepts only `choices`, for the argument `type` of `add_argument`.

    The function raises OptionValueError for any other value.
    """

    def parse_choice(value: object) -> str:
        if value not in choices and not option.startswith("-"):
            raise OptionValueError(str(unknown_name_error(option, str(value), choices)))
        if value not in choices:
            raise OptionValueError(str(unknown_name_error("value", str(value), choices, option)))
        return str(value)

    return parse_choice


def make_command_parser(name: str, command: ModuleType) -> CommandParser:
    """Make the parser of a command, whose module defines `add_arguments`."""
    parser = CommandParser(prog=f"residua {name}", description=command.__doc__)
    command.add_arguments(parser)
    parser.add_config_options()
    group_options(parser)
    return parser
