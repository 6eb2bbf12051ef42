"""Widths and numbers of units of a network's stages, for a depth and a width factor."""

from dataclasses import replace
from fractions import Fraction

from residua.config.name_parts import NameChanges, parse_count
from residua.config.network import MAX_EXPAND, Unit
from residua.config.stages import Stage, Stem
from residua.errors import UsageError


def scale_stages(stages: list[Stage], factor: Fraction) -> list[Stage]:
    """Return the stages with their widths multiplied by `factor`."""
    return [replace(stage, width=scale_width(stage.width, factor)) for stage in stages]


def scale_stem(stem: Stem, factor: Fraction) -> Stem:
    """Return the stem with its widths multiplied by `factor`."""
    inner_widths = tuple(scale_width(width, factor) for width in stem.inner_widths)
    return replace(stem, width=scale_width(stem.width, factor), inner_widths=inner_widths)


def scale_width(width: int, factor: Fraction) -> int:
    """Return `width * factor`.  Raises UsageError if this is not a whole number above 0."""
    scaled = width * factor
    if scaled.denominator > 1 or scaled < 1:
        raise UsageError(
            f"width={float(factor):g} makes layers of {float(scaled):g} channels: choose a factor "
            "that keeps whole numbers, e.g. 0.25, 0.5, 0.75 or 2"
        )
    return int(scaled)


def set_inner_width_ratio(unit: Unit, ratio: Fraction) -> Unit:
    """Return `unit` with inner layers of `ratio` times the width.

    Raises UsageError if they are wider than a network of any use has them.
    """
    if ratio > MAX_EXPAND:
        raise UsageError(
            f"inner layers of {int(ratio):,} times the width are too wide: choose a smaller width "
            "factor, or fewer or narrower groups"
        )
    return replace(unit, expand=ratio.numerator, squeeze=ratio.denominator)


def make_stages(
    widths: list[int], units_per_stage: tuple[int, ...], stride: int = 2
) -> list[Stage]:
    """Make one stage for each width, with as many units as `units_per_stage` says.

    The first stage has stride 1.  All other stages have stride `stride`.
    """
    return [
        Stage(width, n, 1 if i == 0 else stride)
        for i, (width, n) in enumerate(zip(widths, units_per_stage, strict=True))
    ]


def resolve_units_per_stage(
    family: str, depth: int, unit: Unit, stage_count: int, changes: NameChanges, hint: str = ""
) -> tuple[int, ...]:
    """Return the number of units in each stage of a network of `depth` layers.

    The numbers are those in `changes`; without them, every stage has the same number of units.
    Raises UsageError if the numbers in `changes` do not fit the depth or the number of stages, or
    if equal stages cannot make this depth; in that case the message names possible depths.
    """
    layers_per_unit = len(unit.kernels)
    if "units" in changes:
        units = tuple(parse_count("units", number) for number in changes["units"].split("-"))
        if len(units) != stage_count:
            raise UsageError(
                f"units={changes['units']} is invalid: {family} has {stage_count} stages, "
                f"so give {stage_count} numbers"
            )
        if (units_depth := sum(units) * layers_per_unit + 2) != depth:
            raise UsageError(
                f"units={changes['units']} makes {units_depth} layers, not {depth}: "
                "choose other units, or another depth"
            )
        return units
    depth_step = stage_count * layers_per_unit
    units_in_each, remainder = divmod(depth - 2, depth_step)
    if remainder or units_in_each < 1:
        nearest_depth = max(depth - remainder, depth_step + 2)
        raise UsageError(
            f"{family} networks cannot have {depth} layers: depth must be {depth_step}n+2{hint}, "
            f"e.g. {nearest_depth} or {nearest_depth + depth_step}"
        )
    return (units_in_each,) * stage_count
