"""The parts that a network's name can set, e.g. `cifar-resnet56,join=shortcut-gate`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from residua.config.attention import Attention
from residua.config.heads import Pooling
from residua.config.joins import Join
from residua.config.network import SHORTCUTS, Unit
from residua.config.orders import ORDERS
from residua.config.registry import named_parts
from residua.config.stages import Stem
from residua.errors import UsageError, unknown_name_error

# the letters that He et al. 2015, section 4.1, use for shortcuts; D is that of ResNet-D
SHORTCUT_LETTERS = {"A": "pad", "B": "project", "C": "project-all", "D": "pool-project"}


BLOCKS = {
    "single": Unit(kernels=(3,)),  # a one-layer skip: He et al. 2016, Table 3
    "basic": Unit(),
    "bottleneck": Unit(kernels=(1, 3, 1), squeeze=4),
    "triple": Unit(kernels=(3, 3, 3)),
}


JOINS: Mapping[str, Join] = named_parts(Join)


HEADS: Mapping[str, Pooling] = named_parts(Pooling)


ATTENTIONS: Mapping[str, Attention] = named_parts(Attention)


STEMS = {
    "7x7": Stem(width=64, kernel=7, stride=2, pool=True),  # He et al. 2015, Table 1
    "3x3": Stem(width=64),  # for small images
    # ResNet-C and -D (He et al. 2019, Fig. 2b), and two widths that timm has besides
    "deep": Stem(width=64, stride=2, pool=True, inner_widths=(32, 32)),
    "tiered": Stem(width=64, stride=2, pool=True, inner_widths=(24, 32)),
    "deep64": Stem(width=128, stride=2, pool=True, inner_widths=(64, 64)),
}
"""The stems of networks for ImageNet."""


UNIT_PARTS: dict[str, Mapping[str, Any]] = {
    "block": BLOCKS,
    "shortcut": {name: name for name in SHORTCUTS} | SHORTCUT_LETTERS,
    "order": ORDERS,
    "join": JOINS,
    "start": {"he": "he", "identity": "identity", "dirac": "dirac"},
    "stride": {"1x1": 0, "3x3": 1},
    "attention": ATTENTIONS,
    "fork": {"first-unit": "first-unit", "shape-change": "shape-change"},
}
"""The parts of a unit that a network's name can set, each with its possible values by name."""


NameChanges = dict[str, str]
"""The `part=value` pairs in a network's name, as a dict from part to value.  The parts are those
of `UNIT_PARTS`, `width` (a factor, e.g. 2 or 0.5), `groups` (number and width of a bottleneck's
groups in the first stage, e.g. 32x4d), `units` (the number of units in each stage, e.g. 3-6-3),
`head` (mean, max, scaled-max or vlad), for ImageNet networks `stem` (one of `STEMS`), and for
cifar-record networks `widths` (those of the stages, e.g. 64-256-256).
"""


def replace_unit_parts(unit: Unit, changes: NameChanges) -> Unit:
    """Return `unit` with the parts that `changes` gives; all other parts stay as they are."""
    if "block" in changes:
        unit = replace_block(unit, look_up_part("block", changes["block"], BLOCKS))
    replacements = {
        part: look_up_part(part, changes[part], values)
        for part, values in UNIT_PARTS.items()
        if part in changes and part != "block"
    }
    if "stride" in replacements:
        replacements["stride_at"] = replacements.pop("stride")
        if unit.kernels != (1, 3, 1):
            raise UsageError(
                "stride=1x1 and stride=3x3 apply only to bottlenecks: "
                "leave stride out, or add block=bottleneck"
            )
    return replace(unit, **replacements)


def refuse_stem_change(changes: NameChanges) -> None:
    if "stem" in changes:
        raise UsageError(
            "stem applies only to ImageNet networks, as in resnet18,stem=3x3: leave it out"
        )


def replace_block(unit: Unit, block: Unit) -> Unit:
    return replace(unit, kernels=block.kernels, squeeze=block.squeeze)


def look_up_part(part: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise unknown_name_error(part, name, choices)
    return choices[name]


MAX_FACTOR_LENGTH = 8  # digits of a width factor
MAX_COUNT = 10_000  # upper limit of units per stage and of width factors, exclusive


def parse_count(part: str, text: str) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNT))
    if not is_number or not 1 <= int(text) < MAX_COUNT:
        raise UsageError(
            f"{part}={text} is invalid: give a whole number from 1 to {MAX_COUNT - 1:,}"
        )
    return int(text)


def parse_width_factor(text: str) -> Fraction:
    """Parse a width factor such as `2`, `0.5` or `1.25`, with at most three decimals."""
    if not re.fullmatch(r"[0-9]+\.[0-9]{1,3}", text) or len(text) > MAX_FACTOR_LENGTH:
        return Fraction(parse_count("width", text))
    if not Fraction(text):
        raise UsageError(f"width={text} is invalid: give a factor above 0, e.g. 0.5 or 2")
    return Fraction(text)


def parse_groups(text: str) -> tuple[int, int]:
    """Parse the number and the width of groups: `32x4d` -> (32, 4)."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})d", text)
    if match is None:
        raise UsageError(
            f"groups={text} is invalid: give the number and the width of the groups, as in 32x4d"
        )
    return parse_count("groups", match[1]), parse_count("groups", match[2])
