"""Values <-> JSON, and overrides such as `batch_size=64`, both checked against the values' types."""

import json
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from residua.errors import RecordError, UsageError, unknown

FORMAT = 1
UNSAID = ("Network", "Sgd")  # kinds that are not written: they stood alone in their places when format 1 began

T = TypeVar("T")
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


def to_json(value: Any) -> Json:
    """A frozen value, or anything in one, as JSON; where several kinds could stand it says its `kind`, but for those UNSAID.

    A field that is `younger` than format 1 is not written at its default, so that older runs keep their ids.
    """
    if is_dataclass(value) and not isinstance(value, type):
        hints, said = hints_of(type(value)), {field.name: getattr(value, field.name) for field in fields(value)}
        for field in fields(value):
            if "younger" in field.metadata and said[field.name] == field.default:
                del said[field.name]
        return {name: tagged(part, hints[name]) for name, part in said.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no value of a spec")


def tagged(value: Any, hint: Any) -> Json:
    encoded = to_json(value)
    if isinstance(encoded, dict) and isinstance(hint, UnionType) and sum(map(is_dataclass, get_args(hint))) > 1:
        kind = type(value).__name__
        return encoded if kind in UNSAID else {"kind": kind, **encoded}
    return encoded


def from_json(kind: type[T], data: Json) -> T:
    """The value of type `kind` that `data` describes; RecordError where it does not describe one."""
    try:
        value: T = decode(kind, data, kind.__name__.lower())
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise RecordError(f"not a {kind.__name__.lower()}: {error}") from error
    return value


def decode(hint: Any, data: Json, place: str) -> Any:
    """`data` as the type `hint` asks; TypeError names the place that does not fit."""
    if get_origin(hint) is Literal:
        if data not in get_args(hint):
            raise TypeError(f"{place} is {data!r}, not one of {', '.join(map(repr, get_args(hint)))}")
        return data
    if isinstance(hint, UnionType):
        return decode_union(get_args(hint), data, place)
    if get_origin(hint) is tuple and isinstance(data, list):
        inner, *rest = get_args(hint)
        kinds = [inner] * len(data) if rest == [...] else [inner, *rest]
        if len(kinds) != len(data):
            raise TypeError(f"{place} has {len(data)} parts, not {len(kinds)}")
        return tuple(decode(kind, item, f"{place}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(data, dict):
        hints = hints_of(hint)
        if strange := set(data) - set(hints):
            raise unknown(f"field of {place}", sorted(strange)[0], hints)
        return hint(**{name: decode(hints[name], item, f"{place}.{name}") for name, item in data.items()})
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(hint, type) and isinstance(data, hint) and (hint is bool or not isinstance(data, bool)):
        return data
    raise TypeError(f"{place} is {data!r}, not {getattr(hint, '__name__', hint)}")


def decode_union(kinds: tuple[Any, ...], data: Json, place: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    values = [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]
    if isinstance(data, dict) and len(values) > 1:
        named = {kind.__name__: kind for kind in values}
        kind = data.get("kind", values[0].__name__)  # the first, where none is said
        if kind not in named:
            raise TypeError(f"{place} is of kind {kind!r}, not one of {', '.join(named)}")
        return decode(named[str(kind)], {name: item for name, item in data.items() if name != "kind"}, place)
    [kind] = [kind for kind in kinds if kind is not type(None)]
    return decode(kind, data, place)


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def overridden(value: T, assignment: str) -> T:
    """`value` with one field replaced: `batch_size=64`, `optimiser.momentum=0.8`, `schedule={"kind": "OneCycle", "lr": 0.2}`."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise UsageError(f"{assignment!r} sets nothing: write FIELD=VALUE, e.g. batch_size=64")
    changed: T = put(value, path.split("."), literal(text), path)
    return changed


def literal(text: str) -> Json:
    """`64` -> 64, `{"lr": 0.2}` -> a dictionary, and what is no JSON -> itself."""
    try:
        value: Json = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def put(value: Any, path: list[str], data: Json, whole: str) -> Any:
    name, *rest = path
    if value is None:
        raise UsageError(f"{whole} cannot be set, for there is none here: set the whole of it, as JSON")
    if not is_dataclass(value) or isinstance(value, type):
        raise UsageError(f"{whole} cannot be set: {type(value).__name__} has no field {name!r}")
    hints = hints_of(type(value))
    if name not in hints:
        raise unknown(f"field in {type(value).__name__.lower()}", name, hints)
    if rest:
        return replace(value, **{name: put(getattr(value, name), rest, data, whole)})
    try:
        return replace(value, **{name: decode(hints[name], data, whole)})
    except TypeError as error:
        raise UsageError(str(error)) from None
