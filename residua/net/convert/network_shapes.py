"""Read the shapes of a file's weights as the widths of a stem and of units."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

from residua.net.convert.file_modules import MAX_STEM_INPUTS, FileModule
from residua.net.convert.match import strip_trailing_ones
from residua.net.convert.positions import ModulePosition
from residua.net.convert.unit_layouts import UnitLayout, UnitPositions, order_unit

BRANCH_KERNELS = ((3, 3), (1, 3, 1))
MAX_UNITS, MAX_READINGS = 1_000, 4


class UnitShape(NamedTuple):
    """The widths of a unit: its output, its inner layers, their groups, its attention's layer."""

    width: int
    inner: int
    groups: int
    has_projection: bool
    attention: tuple[int, ...]  # the shape of the attention's first weight


class NetworkShape(NamedTuple):
    """The widths of the stem's layers and the shapes of all units."""

    inputs: int
    stem_widths: tuple[int, ...]
    stem_kernel: int
    kernels: tuple[int, ...]
    units: tuple[UnitShape, ...]


def list_network_shapes(weights: list[FileModule]) -> Iterator[NetworkShape]:
    """Yield the ways to read weights, in order of use, as a stem and units."""
    for stem_count in (1, 3):
        stem, rest = weights[:stem_count], weights[stem_count:]
        shapes = [module.shape for module in stem]
        if not rest or len(stem) < stem_count or {len(shape) for shape in shapes} != {4}:
            continue
        is_chain = all(after[1] == before[0] for before, after in pairwise(shapes))
        is_same_width = stem_count > 1 and shapes[0][0] == shapes[-1][0]
        if not is_chain or is_same_width or shapes[0][1] > MAX_STEM_INPUTS:
            continue
        widths = tuple(shape[0] for shape in shapes)
        for kernels, units in list_unit_readings(rest, widths[-1]):
            yield NetworkShape(shapes[0][1], widths, shapes[0][2], kernels, units)


def list_unit_readings(
    weights: list[FileModule], channels: int
) -> Iterator[tuple[tuple[int, ...], tuple[UnitShape, ...]]]:
    """Yield the ways to read weights as units: the kernels of the branch, and the units."""
    for kernels, attention_count in product(BRANCH_KERNELS, (0, 1, 2)):
        places = range(len(kernels), -1, -1)
        for project, attention in product(places, places if attention_count else (0,)):
            for project_is_first in (False, True) if project == attention else (False,):
                layout = UnitLayout(project, attention, project_is_first)
                for units in read_units(weights, channels, kernels, attention_count, layout):
                    yield kernels, units


def read_units(
    weights: list[FileModule],
    channels: int,
    kernels: tuple[int, ...],
    attention_count: int,
    layout: UnitLayout,
) -> Iterator[tuple[UnitShape, ...]]:
    """Yield the ways to read weights as units of one layout, some of them with a projection.

    Yields at most `MAX_READINGS`.
    """
    positions = UnitPositions(
        convs=[ModulePosition("conv", layer=i + 1) for i in range(len(kernels))],
        attention=[ModulePosition("attention", layer=i) for i in range(attention_count)],
    )
    with_projection = replace(positions, project=[ModulePosition("project")])
    orders = [[*order_unit(unit, layout)] for unit in (positions, with_projection)]
    readings: list[tuple[int, tuple[UnitShape, ...]]] = [(0, ())]
    dead_ends: Counter[tuple[int, int]] = Counter()
    count = 0
    while readings and count < MAX_READINGS:
        start, units = readings.pop()
        if start == len(weights):
            count += 1
            yield units
            continue
        width = units[-1].width if units else channels
        dead_ends[start, width] += 1
        if len(units) == MAX_UNITS or dead_ends[start, width] > MAX_READINGS:
            continue
        for order in orders:
            taken = weights[start : start + len(order)]
            if len(taken) == len(order):
                shapes = {at: module.shape for at, module in zip(order, taken, strict=True)}
                if unit := read_unit(shapes, width, kernels):
                    readings.append((start + len(order), (*units, unit)))


def read_unit(
    shapes: dict[ModulePosition, tuple[int, ...]], channels: int, kernels: tuple[int, ...]
) -> UnitShape | None:
    """Read the shapes of a unit's weights; None if they do not fit together."""
    convs = [shapes[ModulePosition("conv", layer=i + 1)] for i in range(len(kernels))]
    if any(len(shape) < 2 for shape in convs):
        return None
    inner, width = convs[0][0], convs[-1][0]
    group_width = convs[1][1] if len(convs) == 3 else inner
    inputs = [channels, *([group_width] if len(convs) == 3 else []), inner]
    outputs = [*([inner] * (len(convs) - 1)), width]
    expected = [
        strip_trailing_ones((outputs[i], inputs[i], kernel, kernel))
        for i, kernel in enumerate(kernels)
    ]
    projection = shapes.get(ModulePosition("project"))
    attention = [shape for position, shape in shapes.items() if position.role == "attention"]
    is_attention = (
        not attention
        or (len(attention) == 1 and attention[0][:2] == (1, 1))
        or (
            len(attention) == 2
            and strip_trailing_ones(attention[0][::-1]) == attention[1]
            and (attention[1][0] == width)
        )
    )
    if (
        convs != expected
        or inner % group_width
        or projection not in (None, strip_trailing_ones((width, channels)))
        or not is_attention
    ):
        return None
    first_attention = attention[0] if attention else ()
    return UnitShape(width, inner, inner // group_width, projection is not None, first_attention)
