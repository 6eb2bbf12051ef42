"""Register kinds of parts: the joins, heads, optimisers and augmentations that a value may hold.

A part is a frozen dataclass below one of the bases (`Join`, `Head`, `Optimiser`, `BatchTransform`).
It describes itself without torch.  `register` makes its kind known; reading JSON accepts registered
kinds alone and imports nothing that a file names.

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
    """A frozen value that may be defined outside this package; `register` makes its kind known."""

    __slots__ = ()

    STORED_KIND: ClassVar[str]  # what JSON calls the kind; the class's name where it is not given


_kinds: dict[type[Part], dict[str, type[Part]]] = {}
_implementations: dict[type[Part], Callable[..., Any]] = {}
_named_values: dict[type[Part], dict[str, Part]] = {}


def register(
    kind: PartT,
    implementation: Callable[..., Any] | None = None,
    names: Mapping[str, Part] | None = None,
) -> PartT:
    """Register a kind of part, so that it can be read from JSON and built; usable as a decorator.

    `implementation` builds the torch object; its signature is described in the base class of the
    kind: `Join`, `Head`, `Optimiser` or `BatchTransform`.  `names` maps names to values of this
    kind; a network's name may contain such a name, as in `cifar-resnet20,join=NAME`.  A second call
    for the same kind adds to the first.  Raises UsageError if another part already has the kind or
    a name.
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
    """Return the base of `kind`, a direct subclass of `Part`; e.g. `Join` for `Gate`."""
    bases = [base for base in kind.__mro__ if issubclass(base, Part) and base is not Part]
    if not bases:
        raise UsageError(
            f"{kind.__name__} is not a part of a config: "
            "make it a subclass of a part class such as Join or Head"
        )
    return bases[-1]


def is_part_base(hint: object) -> bool:
    """Return whether this type is a base of parts, such as `Join` or `Head`.

    A field of such a type may hold any part that is registered for the base.
    """
    return isinstance(hint, type) and hint in _kinds


def stored_kind_of(kind: type) -> str:
    """Return the name of this kind of part in JSON.

    The name is the class attribute `STORED_KIND` or, if there is none, the name of the class.
    """
    return str(getattr(kind, "STORED_KIND", kind.__name__))


def registered_kinds(base: type) -> dict[str, type[Part]]:
    """Return the registered kinds of a base by their name in JSON; the first one is the default."""
    return _kinds[base]


def named_parts(base: type) -> Mapping[str, Any]:
    """Return, by name, the parts of a base that a network's name may contain.

    The mapping is a live view: parts that are registered later appear in it.
    """
    return _named_values[base]


def implementation_of(part: Part) -> Callable[..., Any]:
    """Return the function that builds the torch object of `part`.

    Raises UsageError if the kind of `part` was registered without an implementation.
    """
    if (implementation := _implementations.get(type(part))) is None:
        name = type(part).__name__
        raise UsageError(f"nothing builds {name}: call register({name}, implementation=...)")
    return implementation
