"""Which kinds of parts exist: the joins, heads, optimisers and augmentations that a value may hold.

A part is a frozen dataclass below one of the bases (`Join`, `Head`, `Optimiser`, `BatchTransform`).
It describes itself without torch.  `register` makes it known; reading JSON knows registered kinds
alone and imports nothing that a file names.

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
    """Make a kind of part known to JSON, and what builds it known to torch; usable as a decorator.

    `implementation` is called as its base says: see `Join`, `Head`, `Optimiser`, `BatchTransform`.
    `names` are values of it that a network's name may hold, as in `cifar-resnet20,join=NAME`.
    A second call for the same kind adds to the first.  UsageError for a kind or a name that another
    part has already.
    """
    kinds = _kinds.setdefault(base_of(kind), {})
    stored_kind = stored_kind_of(kind)
    if kinds.setdefault(stored_kind, kind) is not kind:
        raise UsageError(f"a part of kind {stored_kind!r} is registered already: rename yours")
    if implementation is not None:
        _implementations[kind] = implementation
    values_by_name = _named_values.setdefault(base_of(kind), {})
    for name, value in (names or {}).items():
        if values_by_name.setdefault(name, value) != value:
            raise UsageError(f"the name {name!r} means another part already: choose another")
    return kind


def base_of(kind: type) -> type[Part]:
    """The class below `Part` that `kind` derives from: `Join` for `Gate`."""
    bases = [base for base in kind.__mro__ if issubclass(base, Part) and base is not Part]
    if not bases:
        raise UsageError(f"{kind.__name__} is no part: derive it from Join, Head or the like")
    return bases[-1]


def is_part_base(hint: object) -> bool:
    """Whether a field of this type may hold any registered part of it."""
    return isinstance(hint, type) and hint in _kinds


def stored_kind_of(kind: type) -> str:
    """What JSON calls this kind of value: its class attribute `STORED_KIND`, or else its name."""
    return str(getattr(kind, "STORED_KIND", kind.__name__))


def registered_kinds(base: type) -> dict[str, type[Part]]:
    """The registered kinds of a base by what JSON calls them; the default is the first."""
    return _kinds[base]


def named_parts(base: type) -> Mapping[str, Any]:
    """The values that a network's name may hold, by name; later registrations are seen too."""
    return _named_values[base]


def implementation_of(part: Part) -> Callable[..., Any]:
    """What builds `part`; UsageError if its kind was registered without an implementation."""
    if (implementation := _implementations.get(type(part))) is None:
        name = type(part).__name__
        raise UsageError(f"nothing builds {name}: call register({name}, implementation=...)")
    return implementation
