"""Which tensors a network's plan asks for, place by place, and why those of a file are not them.

A place is what a module is for, whatever it is called: the second convolution of the first unit of stage 3.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from residua.errors import UsageError
from residua.spec.network import Network
from residua.spec.papers import network as network_of
from residua.spec.plan import Layer, Layers, Plan, plan


class Place(NamedTuple):
    """A module's role, and where in the network it stands; all three numbers count from 1, and are 0 outside units."""

    role: str  # stem, stem norm, conv, norm, project, project norm, tail norm, head; or part: of a unit, we know not what
    stage: int = 0
    unit: int = 0
    layer: int = 0  # among a unit's convolutions or norms


class Entry(NamedTuple):
    """A tensor's name, ours or theirs, and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Outputs of a weight; 0 for a single number."""
        return self.shape[0] if self.shape else 0


Key = tuple[Place, str]  # and the tensor's own name, such as running_mean
Entries = dict[Key, Entry]
ROLES = {
    ("stem", "weight"): "stem",
    ("stem", "bn"): "stem norm",
    ("shortcut", "weight"): "project",
    ("shortcut", "bn"): "project norm",
    ("head", "bn"): "tail norm",
    ("head", "weight"): "head",
}
"""Of the layers of each part; a unit's other parts hold convolutions and norms."""
COUNTER = "num_batches_tracked"  # BN's, unknown to files from before torch 0.4
HEAD = Place("head")


def wanted(planned: Plan) -> Entries:
    """Our tensors.  UsageError for a network with parts that no other project has a name for."""
    entries: Entries = {}
    for path, part, layers, (stage, unit), seen in parts(planned):
        for i, layer in enumerate(layers):
            if layer.op in ("scale", "vlad") or part == "gate":
                raise UsageError(f"{planned.network.name} has parts (gates, scales or VLAD) that other projects have no name for")
            role = ROLES.get((part, layer.op)) or {"weight": "conv", "bn": "norm"}.get(layer.op, "")
            seen[role] += 1
            place = Place(role, stage, unit, seen[role] if role in ("conv", "norm") else 0)
            for name, shape in shapes(layer).items():
                entries[place, name] = Entry(f"{path}.{i}.{name}", shape)
    return entries


def parts(planned: Plan) -> Iterator[tuple[str, str, Layers, tuple[int, int], Counter[str]]]:
    """Our name of each row of layers, its part, the layers, stage and unit, and a count of roles that all of a unit shares."""
    yield "stem", "stem", planned.stem, (0, 0), Counter()
    for unit in planned.units:
        seen: Counter[str] = Counter()
        rows = {"lead": unit.lead, "branch": unit.branch, "after": unit.after, "shortcut": unit.shortcut or (), "gate": unit.gate}
        for part, layers in rows.items():
            yield f"stages.stage{unit.stage}.{unit.index - 1}.{part}", part, layers, (unit.stage, unit.index), seen
    yield "head", "head", planned.head, (0, 0), Counter()


def shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer's module."""
    c = layer.out.channels
    if layer.op == "bn":
        return {"weight": (c,), "bias": (c,), "running_mean": (c,), "running_var": (c,), COUNTER: ()}
    if layer.op == "weight":
        kernel = (layer.kernel,) * len(layer.out.size)
        return {"weight": (c, layer.at.channels, *kernel)} | ({"bias": (c,)} if layer.bias else {})
    return {}


def settled(held: Entries, asks: Entries) -> Entries:
    """A file's tensors with its only norm outside of units where we have ours: the same name stands for stem and tail."""
    stem, tail = Place("stem norm"), Place("tail norm")
    if (tail, "weight") in asks and (tail, "weight") not in held and (stem, "weight") not in asks:
        return {(tail if place == stem else place, name): entry for (place, name), entry in held.items()}
    return held


def misfit(held: Entries, network: Network) -> str:
    """Why a file's tensors are not those of `network`, as a sentence; empty where they are, but for a head that is not there."""
    asks, name = wanted(plan(network)), network.name
    held = settled(held, asks)
    theirs, ours = units(held), units(asks)
    if theirs != ours:
        return f"the file has {' + '.join(map(str, theirs)) or 'no known'} units, {name} has {' + '.join(map(str, ours))}"
    if (a := depth_of_units(held)) != (b := depth_of_units(asks)):
        return f"the file's units have {a} convolutions, those of {name} have {b}"
    there, here = [[key for key in entries if key[0].role == "project" and key[1] == "weight"] for entries in (held, asks)]
    for key in there:
        if key not in asks:
            return f"the file has a projection at the shortcut of {of_unit(key)} ({held[key].name}), {name} has none there"
    for key in here:
        if key not in held:
            return f"the file has no projection at the shortcut of {of_unit(key)}, {name} has one there"
    bodies = [key for key in asks if key[0] != HEAD and key in held and core(held[key].shape) != core(asks[key].shape)]
    if bodies:
        entry, more = held[bodies[0]], f", and so with {len(bodies) - 1} more" if bodies[1:] else ""
        return f"{entry.name} is {text(entry.shape)} where {name} wants {text(asks[bodies[0]].shape)}{more}"
    if lacking := [key for key in asks if key not in held and key[1] != COUNTER and (key[0] != HEAD or (HEAD, "weight") in held)]:
        shown = ", ".join(f"the {tensor} of {said(place)}" for place, tensor in lacking[:3])
        return f"the file lacks {shown}{f' and {len(lacking) - 3} more' if lacking[3:] else ''}, which {name} wants"
    if strange := [entry.name for key, entry in held.items() if key not in asks]:
        shown = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if strange[3:] else "")
        return f"{name} has no place for {shown}"
    for key in [key for key in asks if key[0] == HEAD and key in held and core(held[key].shape) != core(asks[key].shape)]:
        entry, shape = held[key], asks[key].shape
        if key[1] == "weight" and entry.shape and core(entry.shape)[1:] == core(shape)[1:]:
            return f"{entry.name} is for {entry.rows} classes, {name} has {network.classes}"
        return f"{entry.name} is {text(entry.shape)} where {name} wants {text(shape)}"
    return ""


def likely(held: Entries, network: Network, refused: Callable[[Network], object]) -> str:
    """`: is it cifar-resnet56?` where a named network, not `refused`, has all of a file's tensors; those like `network` first."""
    head = held.get((HEAD, "weight"))
    classes = head.rows if head else network.classes
    for name in candidates(held, network.name):
        try:
            other = network_of(name, input=network.input, classes=classes)
        except UsageError:  # no such depth
            continue
        as_many = tuple(stage.units for stage in other.stages) == units(held)  # or a plan of 100,000 layers is made for nothing
        if as_many and other.name != network.name and not misfit(held, other) and not refused(other):
            return f": is it {name}?"
    return ""


def candidates(held: Entries, name: str) -> Iterator[str]:
    """Names of networks as deep as a file's."""
    if not units(held):
        return
    depth = sum(units(held)) * depth_of_units(held) + 2
    first = held.get((Place("conv", 1, 1, 1), "weight"), Entry("", (16,))).rows
    families = ["cifar-resnet", "resnet", "cifar-preresnet", "preresnet"]
    for family in sorted(families, key=lambda family: not re.match(rf"{family}\d", name)):
        for block in ("", ",block=bottleneck"):
            yield from (f"{family}{depth}{block}{shortcut}" for shortcut in ("", ",shortcut=A", ",shortcut=B", ",shortcut=C"))
    yield from (f"cifar-wrn{depth + 2}-{first // 16}", f"wide-resnet{depth}-2")


def units(entries: Iterable[Key]) -> tuple[int, ...]:
    """How many there are in each stage."""
    last = Counter[int]()
    for place, _ in entries:
        if place.role == "conv":
            last[place.stage] = max(last[place.stage], place.unit)
    return tuple(last[stage] for stage in range(1, max(last, default=0) + 1))


def depth_of_units(entries: Iterable[Key]) -> int:
    return max((place.layer for place, _ in entries if place.role == "conv"), default=0)


def core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the 1s at its end: a 1x1 convolution's is that of a fully connected layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def of_unit(key: Key) -> str:
    return f"stage{key[0].stage}.unit{key[0].unit}"


def said(place: Place) -> str:
    """`norm 2 of stage3.unit1`."""
    role = place.role + (f" {place.layer}" if place.layer else "")
    return role + (f" of stage{place.stage}.unit{place.unit}" if place.stage else "")


def text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
