"""The residual network of the fastest recipe for CIFAR-10: `cifar-record11` and its variants."""

from dataclasses import replace

from residua.config.heads import MaxPooling
from residua.config.name_parts import (
    BLOCKS,
    HEADS,
    NameChanges,
    look_up_part,
    parse_count,
    parse_width_factor,
    refuse_stem_change,
    replace_unit_parts,
)
from residua.config.network import Network, Unit
from residua.config.norm import BatchNorm
from residua.config.orders import ORDERS
from residua.config.stage_sizes import scale_stages
from residua.config.stages import Stage, Stem, Whitening
from residua.errors import UsageError

RECORD_WIDTHS = (64, 256, 256)  # Jordan 2024, airbench94
RECORD_UNIT = Unit(
    order=replace(ORDERS["silu"], stem="weight silu"),  # whitened images need no BN
    start="dirac",
    # airbench's share of 0.6 of the old statistics per 2,000 images, at a batch of 1,000
    norm=BatchNorm(eps=1e-12, momentum=0.225, scale=False),
)
RECORD_STEM = Stem(width=24, kernel=2, start=Whitening())
RECORD_LEAD = "weight maxpool bn silu"
RECORD_HEAD = MaxPooling(scale=0.5, bias=False)


def make_record_network(depth: int, changes: NameChanges) -> Network:
    """Make a residual network for CIFAR-10 in seconds of a GPU, after Jordan 2024 (airbench94).

    The stem is a whitening convolution of 2x2 pixels.  Each of three stages begins with a
    convolution, a max-pool, BN and SiLU, which residual units follow: one of two layers at 11
    layers, one of one layer at 8.  The units are ours; airbench94 has none.  In `changes`, `widths`
    gives the widths of the stages, e.g. 128-384-512, those of airbench96.
    """
    refuse_stem_change(changes)
    if "groups" in changes:
        raise UsageError("cifar-record networks have no groups: leave groups out")
    default_block = {8: "single", 11: "basic", 14: "triple"}.get(depth, "basic")
    unit = replace_unit_parts(replace(RECORD_UNIT, kernels=BLOCKS[default_block].kernels), changes)
    counts = parse_counts("units", changes.get("units", "1-1-1"))
    widths = parse_counts("widths", changes.get("widths", "-".join(map(str, RECORD_WIDTHS))))
    if (own_depth := 5 + sum(counts) * len(unit.kernels)) != depth:
        raise UsageError(
            f"cifar-record{depth} cannot have {sum(counts)} units of {len(unit.kernels)} layers, "
            f"which make {own_depth} layers: write cifar-record{own_depth}, or "
            "other units= or block="
        )
    stages = [
        Stage(width, count, lead=RECORD_LEAD) for width, count in zip(widths, counts, strict=True)
    ]
    head = look_up_part("head", changes["head"], HEADS) if "head" in changes else RECORD_HEAD
    return Network(
        name=f"cifar-record{depth}",
        input=(3, 32, 32),
        stem=RECORD_STEM,
        unit=unit,
        stages=tuple(scale_stages(stages, parse_width_factor(changes.get("width", "1")))),
        classes=10,
        head=head,
    )


def parse_counts(part: str, text: str) -> list[int]:
    """Parse one number for each of the three stages: `64-256-256`."""
    numbers = [parse_count(part, number) for number in text.split("-")]
    if len(numbers) != len(RECORD_WIDTHS):
        raise UsageError(
            f"{part}={text} is invalid: cifar-record networks have {len(RECORD_WIDTHS)} stages, "
            f"so give {len(RECORD_WIDTHS)} numbers"
        )
    return numbers
