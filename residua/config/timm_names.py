"""The names that timm gives to residual networks, in terms of the papers' names and their parts.

For example, `resnet50d` is `resnet50` with the stem and the shortcuts of ResNet-D.  All of timm's
bottlenecks stride on the 3x3.
"""

import re
from dataclasses import dataclass, field

from residua.config.name_parts import NameChanges

NUMBER = "[1-9][0-9]{0,8}"
CLASSIC = re.compile(rf"(se|eca)?(resnet|resnext)({NUMBER})([cdst]?)(?:_({NUMBER}x{NUMBER}d))?")
WIDE = re.compile(rf"wide_resnet({NUMBER})_({NUMBER})")
PREACTIVATION = re.compile(rf"resnetv2_({NUMBER})([dt]?)")
ATTENTIONS = {"se": "se-timm", "eca": "eca"}
SUFFIXES = {
    "": {},
    "c": {"stem": "deep"},
    "s": {"stem": "deep64"},
    "d": {"stem": "deep", "shortcut": "D"},
    "t": {"stem": "tiered", "shortcut": "D"},
}
"""The parts that the letter after the depth stands for."""
BASIC_DEPTHS = (10, 12, 14, 16, 18, 34)  # with basic blocks; all others have bottlenecks

LISTED_TIMM_NETWORKS = (
    *("resnet10t", "resnet14t", "resnet18d", "resnet26t", "resnet26d", "resnet34d"),
    *(f"resnet{depth}{suffix}" for depth in (50, 101, 152) for suffix in "cds"),
    *("resnet50t", "resnet200d"),
    *("resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d"),
    *("resnext101_32x16d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("seresnet50t", "seresnet152d", "seresnet200d", "seresnet269d"),
    *("seresnext26d_32x4d", "seresnext26t_32x4d", "seresnext50_32x4d"),
    *("seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d", "seresnext101d_32x8d"),
    *("ecaresnet26t", "ecaresnet50d", "ecaresnet50t", "ecaresnet101d"),
    *("ecaresnet200d", "ecaresnet269d", "ecaresnext26t_32x4d", "ecaresnext50t_32x4d"),
    *(f"resnetv2_{depth}{suffix}" for depth in (18, 34, 50, 101, 152) for suffix in ("", "d")),
    "resnetv2_50t",
)
"""The networks of timm that `list_models` lists."""


@dataclass(frozen=True, slots=True)
class TranslatedName:
    """A network of timm, as one of the papers' networks with some of its parts changed."""

    base: str
    changes: NameChanges = field(default_factory=dict)


def translate_timm_name(name: str) -> TranslatedName | None:
    """Translate timm's name of a network, without `part=value` pairs; None if it is not timm's.

    A name that the papers and timm share, such as `resnet50`, is the papers'.
    """
    if match := WIDE.fullmatch(name):
        return TranslatedName(f"wide-resnet{match[1]}-{match[2]}", {"stride": "3x3"})
    if match := PREACTIVATION.fullmatch(name):
        depth, suffix = int(match[1]), match[2]
        # in deeper nets the first unit changes the shape, so both forks are the same
        fork = {"fork": "shape-change"} if depth in BASIC_DEPTHS else {}
        return TranslatedName(
            f"preresnet{depth}", choose_block(depth, bool(suffix)) | fork | SUFFIXES[suffix]
        )
    match = CLASSIC.fullmatch(name)
    if match is None or (match[2] == "resnext") != bool(match[5]):
        return None
    attention, depth, suffix, groups = match[1], int(match[3]), match[4], match[5]
    if not (attention or suffix or groups):
        return None
    changes = choose_block(depth, bool(suffix or groups)) | SUFFIXES[suffix]
    if attention:
        changes["attention"] = ATTENTIONS[attention]
    if groups:
        changes["groups"] = groups
    return TranslatedName(f"resnet{depth}", changes)


def choose_block(depth: int, has_suffix: bool) -> NameChanges:
    """Return the parts that make timm's block at this depth; `resnet14t` alone is an exception."""
    if depth == 14 and has_suffix:
        return {"block": "bottleneck", "stride": "3x3"}
    return {} if depth in BASIC_DEPTHS else {"stride": "3x3"}
