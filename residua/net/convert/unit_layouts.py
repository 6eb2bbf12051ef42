"""List the orders in which a file may register the modules of a network's units."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from residua.net.convert.positions import HEAD_POSITION, ModulePosition, TensorShapes

Positions = list[ModulePosition]


@dataclass(frozen=True, slots=True)
class UnitPositions:
    """The positions of one unit's modules: those of the branch in order of use."""

    convs: Positions = field(default_factory=list)
    norms: Positions = field(default_factory=list)
    attention: Positions = field(default_factory=list)
    project: Positions = field(default_factory=list)
    project_norm: Positions = field(default_factory=list)


class NetworkPositions(NamedTuple):
    """The positions of all modules of a network but the head, in order of use."""

    stem: Positions
    stem_norms: Positions
    units: dict[tuple[int, int], UnitPositions]
    tail_norms: Positions


class UnitLayout(NamedTuple):
    """The order in which a file registers the modules of each unit.

    project    how many convolutions of the branch come before the projection
    attention  how many come before the attention
    project_is_first  whether the projection comes before the attention if these are equal
    """

    project: int
    attention: int
    project_is_first: bool


def group_positions(expected: TensorShapes) -> NetworkPositions:
    """Group the positions of a network's modules by unit."""
    grouped = NetworkPositions([], [], {}, [])
    for position in dict.fromkeys(position for position, _ in expected):
        if position == HEAD_POSITION:
            continue
        if not position.stage:
            outside = {
                "stem": grouped.stem,
                "deep stem": grouped.stem,
                "tail norm": (grouped.tail_norms),
            }
            outside.get(position.role, grouped.stem_norms).append(position)
            continue
        unit = grouped.units.setdefault((position.stage, position.unit), UnitPositions())
        places = {
            "conv": unit.convs,
            "norm": unit.norms,
            "project": unit.project,
            "project norm": unit.project_norm,
        }
        places.get(position.role, unit.attention).append(position)
    return grouped


def list_layouts(grouped: NetworkPositions) -> list[UnitLayout]:
    """List the layouts that differ for this network; the usual ones come first."""
    units = grouped.units.values()
    count = max(len(unit.convs) for unit in units)
    projects = range(count, -1, -1) if any(unit.project for unit in units) else (count,)
    attentions = range(count, -1, -1) if any(unit.attention for unit in units) else (count,)
    return [
        UnitLayout(project, attention, project_is_first)
        for project in projects
        for attention in attentions
        for project_is_first in (False, True)
        if not project_is_first or (project == attention and len(attentions) > 1)
    ]


def order_weights(grouped: NetworkPositions, layout: UnitLayout) -> Positions:
    """Return the positions of all weights but the head's in the order of a file."""
    return grouped.stem + [
        position for unit in grouped.units.values() for position in order_unit(unit, layout)
    ]


def order_unit(unit: UnitPositions, layout: UnitLayout) -> Iterator[ModulePosition]:
    for i in range(len(unit.convs) + 1):
        here = [unit.attention * (i == layout.attention), unit.project * (i == layout.project)]
        for positions in reversed(here) if layout.project_is_first else here:
            yield from positions
        yield from unit.convs[i : i + 1]


def order_norms(grouped: NetworkPositions, layout: UnitLayout) -> Positions:
    """Return the positions of all BNs in the order of a file, which is that of the weights."""
    norms = list(grouped.stem_norms)
    for unit in grouped.units.values():
        norms += unit.norms[: layout.project] + unit.project_norm + unit.norms[layout.project :]
    return norms + grouped.tail_norms
