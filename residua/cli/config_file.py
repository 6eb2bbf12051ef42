"""Read the options of a command from YAML, within limits.

A value counts as it would on the command line: `seed: 010` is --seed 010, and `data: no` is the
data set no.  YAML's own types are not used, because they change what was written: no would be
false, and 010 would be 8.
"""

from argparse import Action
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from residua.bounded_json import read_regular_file
from residua.errors import MissingRecordError, RecordError, UsageError, unknown_name_error
from residua.file_names import encode_file_name

OptionValue: TypeAlias = str | bool | list[str]

MAX_CONFIG_BYTES = 2**20
MAX_CONFIG_NODES = 10_000  # values, lists and mappings; the longest command has 40
MAX_CONFIG_NESTING = 8
YAML_TAG = "tag:yaml.org,2002:"
NULL_TAG = f"{YAML_TAG}null"
TYPED_TAGS = {f"{YAML_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
"""The tags of single values; all but the first are those of words without quotes."""
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_config_options(argument: str, options: Mapping[str, Action]) -> dict[str, OptionValue]:
    """Read `--config` (a YAML file or YAML text) as a mapping from option names to values.

    Options that are null in the file are left out.  Raises UsageError if the file cannot be read,
    is not YAML, has aliases or is too large, or if a value does not fit its option.
    """
    source, text = read_config_source_and_text(argument)
    try:
        check_yaml_limits(text, source)
        root = yaml.compose(text, Loader=YamlLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not valid YAML{describe_yaml_error(error)}") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{source} has no options: write one OPTION: VALUE on each line")
    values: dict[str, OptionValue] = {}
    for key_node, value_node in root.value:
        if not isinstance(key_node, yaml.ScalarNode):
            kind = name_collection_kind(key_node)
            line = key_node.start_mark.line + 1
            raise UsageError(
                f"{source} has {kind} as an option's name in line {line}: "
                "write one OPTION: VALUE on each line"
            )
        name = str(key_node.value).replace("-", "_")
        if name not in options:
            raise unknown_name_error("option", name, options, source)
        if name in values:
            raise UsageError(f"{source} sets {name} twice: remove one of the two settings")
        if value_node.tag != NULL_TAG:
            values[name] = convert_option_value(value_node, options[name], f"{name} in {source}")
    return values


def read_config_source_and_text(argument: str) -> tuple[str, str]:
    """Return the name of the source, and the YAML text, of the value of `--config`.

    Raises UsageError if the value is neither a readable file nor YAML.
    """
    try:
        content = read_regular_file(Path(argument), MAX_CONFIG_BYTES)
    except MissingRecordError:
        if ":" not in argument:
            raise UsageError(
                f"{argument} is neither a file nor YAML: check the path, or write OPTION: VALUE"
            ) from None
        return "the text of --config", argument
    except RecordError as error:
        raise UsageError(str(error)) from None
    is_utf16 = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))  # as PowerShell's > writes
    try:
        return argument, content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{argument} is not UTF-8 text: give a YAML file") from None


def check_yaml_limits(text: str, source: str) -> None:
    """Raise UsageError if YAML has aliases, or more values or nesting than options can need."""
    if len(text) > MAX_CONFIG_BYTES:
        raise UsageError(f"{source} has more than {MAX_CONFIG_BYTES:,} characters: shorten it")
    events = yaml.parse(text, Loader=YamlLoader)
    depth = 0
    for count, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UsageError(f"{source} has an anchor or alias (& or *): write each value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if count > MAX_CONFIG_NODES or depth > MAX_CONFIG_NESTING:
            raise UsageError(
                f"{source} has more than {MAX_CONFIG_NODES:,} values, or is nested more than "
                f"{MAX_CONFIG_NESTING} levels deep: write a flat list, one option on each line"
            )


def convert_option_value(node: yaml.Node, option: Action, place: str) -> OptionValue:
    """Convert the YAML value of an option to text, a list of texts or, for a flag, a bool.

    Raises UsageError, whose message begins with `place`, if the option takes no such value.
    """
    if option.nargs == 0:
        if not isinstance(node, yaml.ScalarNode) or node.value.lower() not in ("true", "false"):
            raise UsageError(f"{place} is a flag: write true or false")
        return str(node.value).lower() == "true"
    is_list_option = option.nargs in ("+", "*") or isinstance(option.default, list)
    if isinstance(node, yaml.SequenceNode) and is_list_option:
        return [get_scalar_text(item, place) for item in node.value]
    if isinstance(node, yaml.SequenceNode):
        raise UsageError(f"{place} is a list of {len(node.value)} values: write a single value")
    text = get_scalar_text(node, place)
    return [text] if is_list_option else text


def get_scalar_text(node: yaml.Node, place: str) -> str:
    """Return the text of a single value, as it is written; raises UsageError for anything else."""
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(
            f"{place} contains {name_collection_kind(node)}: write a single value, in quotes if it "
            "has a colon"
        )
    if node.tag == NULL_TAG:
        raise UsageError(f"{place} has no value: write one, or remove the line")
    if node.tag not in TYPED_TAGS:
        tag = node.tag.replace(YAML_TAG, "!!")
        raise UsageError(f"{place} has the YAML tag {tag}: write the value without it")
    if "\0" in node.value:
        raise UsageError(f"{place} has a NUL byte, which no option can have: remove it")
    return encode_file_name(node.value)  # as Python decodes the command line


def name_collection_kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """Say where and why a text is not YAML: ` in line 3: found character that ...`."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}" if mark else ""
    reason = getattr(error, "problem", None) or getattr(error, "reason", None)
    return f"{place}: {reason}" if reason else place
