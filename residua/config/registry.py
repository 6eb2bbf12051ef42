"""The registry of part classes: joins, poolings, optimisers and batch transforms.

A part is an instance of a frozen dataclass derived from one of the base classes `Join`, `Pooling`,
`Optimiser` and `BatchTransform`.  The dataclass, called the part's kind, does not import torch.
`register` adds a kind to the registry.  A JSON file can contain registered kinds only; reading it
never imports a module that the file names.

    @dataclass(frozen=True, slots=True)
    class Halved(Join): ...

    register(Halved, implementation=lambda join, gate_layers: HalvedSum())
"""

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from residua.errors import UsageError

PartT = TypeVar("PartT", bound="type[Part]")


class Part(ABC):
    """Base class of all parts, including those that other packages define and `register`."""

    __slots__ = ()

    STORED_KIND: ClassVar[str]  # name of the kind in JSON; by default the name of the class


_kinds: dict[type[Part], dict[str, type[Part]]] = {}
_implementations: dict[type[Part], Callable[..., Any]] = {}
_named_values: dict[type[Part], dict[str, Part]] = {}


def register(
    kind: PartT,
    implementation: Callable[..., Any] | None = None,
    names: Mapping[str, Part] | None = None,
) -> PartT:
    """Register a kind of part, so that it can be read from JSON and built; usable as a decorator.

    `implementation` is the function that builds the torch object.  Its signature is described in
    the base class of the kind: `Join`, `Pooling`, `Optimiser` or `BatchTransform`.  `names` maps
    names to parts of this kind, for use in the names of networks: `cifar-resnet20,join=NAME`.
    A second call for the same kind adds to the first.  Raises UsageError if a different kind has
    the same name in JSON, or if a different part has one of the `names`.
    """
    kinds = _kinds.setdefault(base_of(kind), {})
    stored_kind = stored_kind_of(kind)
    if kinds.setdefault(stored_kind, kind) is not kind:
        raise UsageError(f"a part of kind {stored_kind!r} is already registered: rename yours")
    if implementation is not None:
        _implementations[kind] = implementation
    values_by_name = _named_values.setdefault(base_of(kind), {})
    for name, value in (names or {}).items():
        if values_by_name.setdefault(name, value) != value:
            raise UsageError(
                f"the name {name!r} is already used by another part: choose another name"
            )
    return kind


def base_of(kind: type) -> type[Part]:
    """Return the base class of `kind` directly below `Part`, e.g. `Join` for `Gate`.

    Raises UsageError if `kind` is not a subclass of `Part`.
    """
    bases = [base for base in kind.__mro__ if issubclass(base, Part) and base is not Part]
    if not bases:
        raise UsageError(
            f"{kind.__name__} cannot be registered: "
            "make it a subclass of a base class of parts, such as Join or Head"
        )
    return bases[-1]


def is_part_base(hint: object) -> bool:
    """Return whether `hint` is a base class of parts, such as `Join` or `Pooling`.

    A field of such a type may hold a part of any kind that is registered for the base class.
    """
    return isinstance(hint, type) and hint in _kinds


def stored_kind_of(kind: type) -> str:
    """Return the name that the class `kind` has in JSON.

    The name is the class attribute `STORED_KIND` or, if there is none, the name of the class.
    """
    return str(getattr(kind, "STORED_KIND", kind.__name__))


def registered_kinds(base: type) -> dict[str, type[Part]]:
    """Return the registered kinds of a base class, by name in JSON; the first is the default."""
    return _kinds[base]


def named_parts(base: type) -> Mapping[str, Any]:
    """Return the named parts of a base class, as a mapping from name to part.

    Names of networks may contain these names.  Parts that are registered later also appear in the
    mapping.
    """
    return _named_values[base]


def implementation_of(part: Part) -> Callable[..., Any]:
    """Return the function that builds the torch object of `part`.

    Raises UsageError if the kind of `part` was registered without an implementation.
    """
    if (implementation := _implementations.get(type(part))) is None:
        name = type(part).__name__
        raise UsageError(f"{name} has no implementation: call register({name}, implementation=...)")
    return implementation
