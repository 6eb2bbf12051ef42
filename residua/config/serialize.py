"""Values <-> JSON, and overrides such as `batch_size=64`, both checked against the values' types."""

import json
import re
from dataclasses import Field, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from residua.errors import RecordError, UsageError, unknown_name_error

FORMAT_VERSION = 1
UNTAGGED_KINDS = (
    "Network",
    "Sgd",
)  # kinds that are not written: they stood alone in their places when format 1 began

ConfigT = TypeVar("ConfigT")
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


def to_json(value: Any) -> Json:
    """Encode a frozen value, with everything in it, as JSON.

    Where a field may hold several kinds of value, the JSON says its `kind`, except for `UNTAGGED_KINDS`.
    A field with `added_later` metadata is not written at its default, so that older runs keep their ids.
    A field with `stored_as` metadata is written under that key, so that Python names may change and files may not.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints: dict[str, Any] = resolve_field_types(type(value))
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
    raise TypeError(f"{type(value).__name__} is no value of a spec")


def to_tagged_json(value: Any, hint: Any) -> Json:
    encoded = to_json(value)
    if (
        isinstance(encoded, dict)
        and isinstance(hint, UnionType)
        and sum(map(is_dataclass, get_args(hint))) > 1
    ):
        kind = stored_kind(type(value))
        return encoded if kind in UNTAGGED_KINDS else {"kind": kind, **encoded}
    return encoded


def from_json(value_type: type[ConfigT], data: Json) -> ConfigT:
    """The value of type `kind` that `data` describes; RecordError where it does not describe one."""
    try:
        value: ConfigT = decode_json(value_type, data, name_in_words(value_type))
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        name = name_in_words(value_type)
        raise RecordError(f"not {'an' if name[0] in 'aeiou' else 'a'} {name}: {error}") from error
    return value


def decode_json(hint: Any, data: Json, path: str) -> Any:
    """`data` as the type `hint` asks; TypeError names the place that does not fit."""
    if get_origin(hint) is Literal:
        if data not in get_args(hint):
            raise TypeError(
                f"{path} is {data!r}, not one of {', '.join(map(repr, get_args(hint)))}"
            )
        return data
    if isinstance(hint, UnionType):
        return decode_json_union(get_args(hint), data, path)
    if get_origin(hint) is tuple and isinstance(data, list):
        item_type, *rest = get_args(hint)
        item_types = [item_type] * len(data) if rest == [...] else [item_type, *rest]
        if len(item_types) != len(data):
            raise TypeError(f"{path} has {len(data)} parts, not {len(item_types)}")
        return tuple(
            decode_json(kind, item, f"{path}[{i}]")
            for i, (kind, item) in enumerate(zip(item_types, data, strict=True))
        )
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(data, dict):
        hints, names = resolve_field_types(hint), names_by_stored_key(hint)
        if unknown_keys := set(data) - set(names):
            raise unknown_name_error(f"field of {path}", sorted(unknown_keys)[0], names)
        return hint(
            **{
                names[key]: decode_json(hints[names[key]], item, f"{path}.{key}")
                for key, item in data.items()
            }
        )
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if (
        isinstance(hint, type)
        and isinstance(data, hint)
        and (hint is bool or not isinstance(data, bool))
    ):
        return data
    raise TypeError(f"{path} is {data!r}, not {getattr(hint, '__name__', hint)}")


def decode_json_union(types: tuple[Any, ...], data: Json, path: str) -> Any:
    if data is None and type(None) in types:
        return None
    dataclass_types = [kind for kind in types if isinstance(kind, type) and is_dataclass(kind)]
    if isinstance(data, dict) and len(dataclass_types) > 1:
        types_by_kind = {stored_kind(type_): type_ for type_ in dataclass_types}
        kind = data.get("kind", stored_kind(dataclass_types[0]))  # the first is the default
        if kind not in types_by_kind:
            raise TypeError(f"{path} is of kind {kind!r}, not one of {', '.join(types_by_kind)}")
        return decode_json(
            types_by_kind[str(kind)],
            {name: item for name, item in data.items() if name != "kind"},
            path,
        )
    [kind] = [kind for kind in types if kind is not type(None)]
    return decode_json(kind, data, path)


@cache
def resolve_field_types(dataclass_type: Any) -> dict[str, Any]:
    return get_type_hints(dataclass_type)


def stored_key(field: Field[Any]) -> str:
    """The JSON key of a dataclass field: its `stored_as` metadata, or else its name."""
    return str(field.metadata.get("stored_as", field.name))


def names_by_stored_key(dataclass_type: Any) -> dict[str, str]:
    return {stored_key(field): field.name for field in fields(dataclass_type)}


def stored_kind(dataclass_type: type) -> str:
    """What JSON calls this kind of value: its class attribute `STORED_KIND`, or else its name."""
    return str(getattr(dataclass_type, "STORED_KIND", dataclass_type.__name__))


def name_in_words(dataclass_type: type) -> str:
    """`ModelConfig` -> `model config`, for messages."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", dataclass_type.__name__).lower()


def apply_override(value: ConfigT, assignment: str) -> ConfigT:
    """`value` with one field replaced: `batch_size=64`, `optimiser.momentum=0.8`, `schedule={"kind": "OneCycle", "lr": 0.2}`."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"{assignment!r} sets nothing: write FIELD=VALUE, e.g. batch_size=64")
    changed: ConfigT = replace_at_path(value, path.split("."), parse_literal(text), path)
    return changed


def parse_literal(text: str) -> Json:
    """`64` -> 64, `{"lr": 0.2}` -> a dictionary, and what is no JSON -> itself."""
    try:
        value: Json = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def replace_at_path(value: Any, path: list[str], data: Json, full_path: str) -> Any:
    key, *rest = path
    if value is None:
        raise UsageError(
            f"{full_path} cannot be set, for there is none here: set the whole of it, as JSON"
        )
    if not is_dataclass(value) or isinstance(value, type):
        raise UsageError(f"{full_path} cannot be set: {type(value).__name__} has no field {key!r}")
    hints, names = resolve_field_types(type(value)), names_by_stored_key(type(value))
    if key not in names:
        raise unknown_name_error(f"field in {name_in_words(type(value))}", key, names)
    name = names[key]
    if rest:
        return replace(
            value, **{name: replace_at_path(getattr(value, name), rest, data, full_path)}
        )
    try:
        return replace(value, **{name: decode_json(hints[name], data, full_path)})
    except TypeError as error:
        raise UsageError(str(error)) from None
