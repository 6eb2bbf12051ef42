"""Convert config dataclasses to and from JSON, and apply overrides such as `batch_size=64`.

Types are checked.  Names in stored files can stay the same when Python names change: the metadata
`stored_as` of a field sets its JSON key, and the attribute `STORED_KIND` of a class sets its name
in JSON.
"""

import re
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from functools import cache
from json import JSONDecodeError
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from residua.bounded_json import Json as Json
from residua.bounded_json import UnacceptableJsonError, describe_json_error, parse_strict_json
from residua.config.registry import is_part_base, registered_kinds, stored_kind_of
from residua.errors import RecordError, UsageError, unknown_name_error

FORMAT_VERSION = 1
UNTAGGED_KINDS = ("Network", "Sgd", "Head")  # format 1 began with only these kinds

ConfigT = TypeVar("ConfigT")
MAX_QUOTED_LENGTH = 60  # characters of a value in a message


def to_json(value: Any) -> Json:
    """Encode a config dataclass, with everything in it, as JSON.

    If a field may hold several classes, the value's class is written under the key "kind", unless
    it is one of `UNTAGGED_KINDS`.  A field with the metadata `added_later` is not written if it has
    its default value, so that older runs keep their ids.  Raises TypeError for a value that JSON
    cannot hold.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints = resolve_field_types(type(value))
        content: dict[str, Json] = {}
        for field in fields(value):
            part = getattr(value, field.name)
            if "added_later" not in field.metadata or part != field.default:
                content[stored_key(field)] = encode_field_value(part, hints[field.name])
        return content
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


def encode_field_value(value: Any, hint: Any) -> Json:
    """Encode `value`, the value of a field of type `hint`, as JSON.

    If the type allows several classes, the value's class is written under the key "kind", unless it
    is one of `UNTAGGED_KINDS`.
    """
    if isinstance(value, tuple) and get_origin(hint) is tuple and is_part_base(get_args(hint)[0]):
        return [encode_field_value(item, get_args(hint)[0]) for item in value]
    encoded = to_json(value)
    if isinstance(hint, UnionType):  # a part that may be None
        hint = next((item for item in get_args(hint) if is_part_base(item)), hint)
    has_kinds = is_part_base(hint) or (
        isinstance(hint, UnionType) and sum(map(is_dataclass, get_args(hint))) > 1
    )
    if isinstance(encoded, dict) and has_kinds:
        kind = stored_kind_of(type(value))
        return encoded if kind in UNTAGGED_KINDS else {"kind": kind, **encoded}
    return encoded


def from_json(value_type: type[ConfigT], data: Json) -> ConfigT:
    """Decode `data` as the dataclass `value_type`.

    Raises RecordError if `data` does not describe such an object, and UsageError for an
    unknown field or an impossible value.
    """
    name = name_in_words(value_type)
    try:
        value: ConfigT = decode_json(value_type, data, name)
    except UsageError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise RecordError(f"not a valid {name}: {error}") from error
    return value


def decode_json(hint: Any, data: Json, path: str) -> Any:
    """Decode `data` as the type `hint`.

    `path` is the place of `data` in the file, for error messages.  Raises TypeError if `data` does
    not fit the type.
    """
    if get_origin(hint) is Literal:
        is_number = isinstance(data, int) and not isinstance(data, bool)
        for value in (data, str(data)) if is_number else (data,):  # `--set views=10` is a number
            # 1, 1.0 and True are equal
            if any(value == item and type(value) is type(item) for item in get_args(hint)):
                return value
        choices = ", ".join(map(repr, get_args(hint)))
        raise TypeError(f"{path} is {quote_json(data)}, not one of {choices}")
    if isinstance(hint, UnionType):
        return decode_json_union(get_args(hint), data, path)
    if get_origin(hint) is tuple and isinstance(data, list):
        return decode_json_tuple(get_args(hint), data, path)
    if is_part_base(hint):
        return decode_json_kind(registered_kinds(hint), data, path)
    if isinstance(hint, type) and is_dataclass(hint):
        return decode_json_object(hint, data, path)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    is_bool = isinstance(data, bool)  # bool is a subclass of int, but is not accepted as one
    if isinstance(hint, type) and isinstance(data, hint) and is_bool == (hint is bool):
        return data
    raise TypeError(f"{path} is {quote_json(data)}, not {getattr(hint, '__name__', hint)}")


def quote_json(data: Json) -> str:
    """Quote a value for a message; a long one is cut."""
    # of a long list only the beginning is written out
    text = repr(data[: 2 * MAX_QUOTED_LENGTH] if isinstance(data, str | list) else data)
    return text if len(text) <= MAX_QUOTED_LENGTH else f"{text[:MAX_QUOTED_LENGTH]}..."


def decode_json_object(value_type: Any, data: Json, path: str) -> Any:
    """Decode a JSON object as a dataclass.

    Raises UsageError if a key is not a field of the dataclass, and TypeError if `data` is not an
    object, or if it lacks a field.
    """
    hints, names = resolve_field_types(value_type), names_by_stored_key(value_type)
    if not isinstance(data, dict):
        first_key = next(iter(names), "FIELD")
        raise TypeError(
            f"{path} is {quote_json(data)}, not an object with fields: "
            f"set one of its fields, such as {path}.{first_key}, or give all of it as JSON"
        )
    if unknown_keys := set(data) - set(names):
        raise unknown_name_error("field", sorted(unknown_keys)[0], names, path)
    missing_keys = [
        stored_key(field)
        for field in fields(value_type)
        if field.default is MISSING and field.default_factory is MISSING
        if field.init and stored_key(field) not in data
    ]
    if missing_keys:
        raise TypeError(f"{path} lacks {', '.join(missing_keys)}")
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
    if len(dataclass_types) > 1:
        kinds = {stored_kind_of(value_type): value_type for value_type in dataclass_types}
        return decode_json_kind(kinds, data, path)
    [value_type] = [kind for kind in types if kind is not type(None)]
    return decode_json(value_type, data, path)


def decode_json_kind(kinds: dict[str, Any], data: Json, path: str) -> Any:
    """Decode a JSON object as the class that its key "kind" names.

    The default is the first class of `kinds`.  Raises TypeError if the class is not in `kinds`.
    """
    if not isinstance(data, dict):
        first_kind, *_ = kinds
        likely = next((kind for kind in kinds if kind.lower() == str(data).lower()), first_kind)
        raise TypeError(
            f"{path} is {quote_json(data)}, not an object with a kind: "
            f'write {path}=\'{{"kind": "{likely}"}}\', where the kind is one of {", ".join(kinds)}'
        )
    kind = data.get("kind", next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        raise TypeError(f"{path} is of kind {quote_json(kind)}, not one of {', '.join(kinds)}")
    content = {key: item for key, item in data.items() if key != "kind"}
    return decode_json_object(kinds[kind], content, path)


@cache
def resolve_field_types(dataclass_type: Any) -> dict[str, Any]:
    return get_type_hints(dataclass_type)


def stored_key(field: Field[Any]) -> str:
    """Return the JSON key of a dataclass field: its metadata `stored_as`, or else its name."""
    return str(field.metadata.get("stored_as", field.name))


def names_by_stored_key(dataclass_type: Any) -> dict[str, str]:
    """Map the JSON keys of a dataclass to the names of its fields."""
    return {stored_key(field): field.name for field in fields(dataclass_type)}


def names_by_settable_key(dataclass_type: Any) -> dict[str, str]:
    """Map the keys that an assignment may name to fields: JSON keys, and their usual other names.

    The metadata `also_set_as` of a field is another name, which JSON never has.
    """
    others = {
        field.metadata["also_set_as"]: field.name
        for field in fields(dataclass_type)
        if "also_set_as" in field.metadata
    }
    return names_by_stored_key(dataclass_type) | others


def name_in_words(dataclass_type: type) -> str:
    """Return the name of a class in words, for messages: `ModelConfig` -> `model config`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", dataclass_type.__name__).lower()


def apply_override(value: ConfigT, assignment: str) -> ConfigT:
    """Return `value` with one field replaced by an assignment, as given to the option `--set`.

    Examples: `batch_size=64`, `optimiser.momentum=0.8`,
    `schedule={"kind": "OneCycle", "lr": 0.2}`.
    Raises UsageError if the field does not exist or cannot hold the new value.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"{assignment!r} is not a setting: write FIELD=VALUE, e.g. batch_size=64")
    changed: ConfigT = replace_at_path(value, path.split("."), parse_literal(text), path)
    return changed


def parse_literal(text: str) -> Json:
    """Parse JSON, e.g. `64` or `{"lr": 0.2}`; text that is not JSON is returned unchanged.

    Raises UsageError for JSON that `parse_strict_json` refuses.
    """
    try:
        return parse_strict_json(text)
    except JSONDecodeError:
        return text
    except (UnacceptableJsonError, RecursionError, MemoryError) as error:
        reason = describe_json_error(error)
        raise UsageError(f"the value {quote_json(text)} cannot be used: {reason}") from None


def replace_at_path(value: Any, path: list[str], data: Json, full_path: str) -> Any:
    """Return `value` with the field at `path` (a list of JSON keys) set to the decoded `data`.

    `full_path` is the whole path, for messages.  Raises UsageError if the field does not exist or
    cannot hold the new value.
    """
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
    hints, names = resolve_field_types(type(value)), names_by_settable_key(type(value))
    if key not in names:
        raise make_unknown_field_error(value, key, full_path)
    name = names[key]
    if rest:
        return replace(
            value, **{name: replace_at_path(getattr(value, name), rest, data, full_path)}
        )
    try:
        return replace(value, **{name: decode_json(hints[name], data, full_path)})
    except TypeError as error:
        raise UsageError(str(error)) from None


def make_unknown_field_error(value: Any, key: str, full_path: str) -> UsageError:
    """Make the error for `key`, an unknown field of `value`; it names the parts with that field."""
    owner = name_in_words(type(value))
    prefix = full_path.removesuffix(key) if full_path.endswith(f".{key}") else ""
    parts = {
        part_key: getattr(value, name)
        for part_key, name in names_by_stored_key(type(value)).items()
    }
    paths = [
        f"{prefix}{part_key}.{key}"
        for part_key, part in parts.items()
        if is_dataclass(part) and key in names_by_stored_key(part)
    ]
    if paths:
        return UsageError(f"{owner} has no field {key!r}: did you mean {' or '.join(paths)}?")
    return unknown_name_error("field", key, parts, owner)
