"""Convert values to and from JSON and apply overrides such as `batch_size=64`, checking types.

Names in stored files do not change when Python names do: a field can set its JSON key with the
`stored_as` metadata, and a class its JSON kind with the attribute `STORED_KIND`.
"""

import json
import re
from dataclasses import Field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from residua.config.registry import is_part_base, registered_kinds, stored_kind_of
from residua.errors import RecordError, UsageError, unknown_name_error

FORMAT_VERSION = 1
UNTAGGED_KINDS = ("Network", "Sgd", "Head")  # the only kinds in their places when format 1 began

ConfigT = TypeVar("ConfigT")
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


def to_json(value: Any) -> Json:
    """Encode a frozen value, with everything in it, as JSON.

    If a field may hold several kinds of value, the value's `kind` is written too, unless it is one
    of `UNTAGGED_KINDS`.  A field with `added_later` metadata is not written if it has its default
    value, so that older runs keep their ids.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints = resolve_field_types(type(value))
        content: dict[str, Json] = {}
        for field in fields(value):
            part = getattr(value, field.name)
            if "added_later" not in field.metadata or part != field.default:
                content[stored_key(field)] = to_tagged_json(part, hints[field.name])
        return content
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


def to_tagged_json(value: Any, hint: Any) -> Json:
    """Encode `value`, the value of a field of type `hint`.

    The value's `kind` is added if the type allows several kinds.
    """
    if isinstance(value, tuple) and get_origin(hint) is tuple and is_part_base(get_args(hint)[0]):
        return [to_tagged_json(item, get_args(hint)[0]) for item in value]
    encoded = to_json(value)
    has_kinds = is_part_base(hint) or (
        isinstance(hint, UnionType) and sum(map(is_dataclass, get_args(hint))) > 1
    )
    if isinstance(encoded, dict) and has_kinds:
        kind = stored_kind_of(type(value))
        return encoded if kind in UNTAGGED_KINDS else {"kind": kind, **encoded}
    return encoded


def from_json(value_type: type[ConfigT], data: Json) -> ConfigT:
    """Decode a value of type `value_type`.

    Raises RecordError if `data` does not describe such a value.
    """
    name = name_in_words(value_type)
    try:
        value: ConfigT = decode_json(value_type, data, name)
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise RecordError(f"not a valid {name}: {error}") from error
    return value


def decode_json(hint: Any, data: Json, path: str) -> Any:
    """Decode `data` as the type `hint`.

    Raises TypeError if `data` does not fit; the message names its place in the file, `path`.
    """
    if get_origin(hint) is Literal:
        if data not in get_args(hint):
            choices = ", ".join(map(repr, get_args(hint)))
            raise TypeError(f"{path} is {data!r}, not one of {choices}")
        return data
    if isinstance(hint, UnionType):
        return decode_json_union(get_args(hint), data, path)
    if get_origin(hint) is tuple and isinstance(data, list):
        return decode_json_tuple(get_args(hint), data, path)
    if is_part_base(hint) and isinstance(data, dict):
        return decode_json_kind(registered_kinds(hint), data, path)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(data, dict):
        return decode_json_object(hint, data, path)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    is_bool = isinstance(data, bool)  # which is an int to Python, but not to us
    if isinstance(hint, type) and isinstance(data, hint) and is_bool == (hint is bool):
        return data
    raise TypeError(f"{path} is {data!r}, not {getattr(hint, '__name__', hint)}")


def decode_json_object(value_type: type, data: dict[str, Json], path: str) -> Any:
    """Decode a JSON object as a dataclass.

    Raises UsageError if a key is not a field of the dataclass.
    """
    hints, names = resolve_field_types(value_type), names_by_stored_key(value_type)
    if unknown_keys := set(data) - set(names):
        raise unknown_name_error("field", sorted(unknown_keys)[0], names, path)
    field_values = {
        names[key]: decode_json(hints[names[key]], item, f"{path}.{key}")
        for key, item in data.items()
    }
    return value_type(**field_values)


def decode_json_tuple(item_hints: tuple[Any, ...], items: list[Json], path: str) -> Any:
    first_type, *rest = item_hints
    item_types = [first_type] * len(items) if rest == [...] else [first_type, *rest]
    if len(item_types) != len(items):
        raise TypeError(f"{path} has {len(items)} items, not {len(item_types)}")
    return tuple(
        decode_json(item_type, item, f"{path}[{i}]")
        for i, (item_type, item) in enumerate(zip(item_types, items, strict=True))
    )


def decode_json_union(types: tuple[Any, ...], data: Json, path: str) -> Any:
    if data is None and type(None) in types:
        return None
    dataclass_types = [kind for kind in types if isinstance(kind, type) and is_dataclass(kind)]
    if isinstance(data, dict) and len(dataclass_types) > 1:
        kinds = {stored_kind_of(value_type): value_type for value_type in dataclass_types}
        return decode_json_kind(kinds, data, path)
    [value_type] = [kind for kind in types if kind is not type(None)]
    return decode_json(value_type, data, path)


def decode_json_kind(kinds: dict[str, Any], data: dict[str, Json], path: str) -> Any:
    """Decode a JSON object as the class that its `kind` names, by default the first of `kinds`."""
    kind = data.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise TypeError(f"{path} is of kind {kind!r}, not one of {', '.join(kinds)}")
    content = {key: item for key, item in data.items() if key != "kind"}
    return decode_json_object(kinds[str(kind)], content, path)


@cache
def resolve_field_types(dataclass_type: Any) -> dict[str, Any]:
    return get_type_hints(dataclass_type)


def stored_key(field: Field[Any]) -> str:
    """Return the JSON key of a dataclass field: its `stored_as` metadata or, if unset, its name."""
    return str(field.metadata.get("stored_as", field.name))


def names_by_stored_key(dataclass_type: Any) -> dict[str, str]:
    """Map the JSON keys of a dataclass to the names of its fields."""
    return {stored_key(field): field.name for field in fields(dataclass_type)}


def name_in_words(dataclass_type: type) -> str:
    """Return a class's name in words, for messages: `ModelConfig` -> `model config`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", dataclass_type.__name__).lower()


def apply_override(value: ConfigT, assignment: str) -> ConfigT:
    """Replace one field of `value` as `--set` does.

    Examples: `batch_size=64`, `optimiser.momentum=0.8`,
    `schedule={"kind": "OneCycle", "lr": 0.2}`.
    Raises UsageError for a field that does not exist, or a value that it cannot hold.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(
            f"cannot read {assignment!r} as a setting: write FIELD=VALUE, e.g. batch_size=64"
        )
    changed: ConfigT = replace_at_path(value, path.split("."), parse_literal(text), path)
    return changed


def parse_literal(text: str) -> Json:
    """Parse JSON, e.g. `64` or `{"lr": 0.2}`; return text that is not JSON as it is."""
    try:
        value: Json = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def replace_at_path(value: Any, path: list[str], data: Json, full_path: str) -> Any:
    """Return `value` with the field at `path`, a list of JSON keys, set to the decoded `data`."""
    key, *rest = path
    if value is None:
        keys = full_path.split(".")
        parent = ".".join(keys[: len(keys) - len(path)])
        raise UsageError(
            f"{full_path} cannot be set, because {parent} is not set: "
            f"set the whole {parent}, as JSON"
        )
    if not is_dataclass(value) or isinstance(value, type):
        raise UsageError(f"{full_path} cannot be set: {type(value).__name__} has no field {key!r}")
    hints, names = resolve_field_types(type(value)), names_by_stored_key(type(value))
    if key not in names:
        raise unknown_name_error("field", key, names, name_in_words(type(value)))
    name = names[key]
    if rest:
        return replace(
            value, **{name: replace_at_path(getattr(value, name), rest, data, full_path)}
        )
    try:
        return replace(value, **{name: decode_json(hints[name], data, full_path)})
    except TypeError as error:
        raise UsageError(str(error)) from None
