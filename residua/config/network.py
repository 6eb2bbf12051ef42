"""The description of a residual network: a stem, stages of units, and a head.

A unit is (He et al. 2016, Eq. 1-2)

    y = after(join(shortcut(x), branch(x)))

and each published variant is a choice of these parts.  The classes are frozen dataclasses.  Their
constructors raise UsageError if the parts contradict each other.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import ClassVar, Literal, get_args

from residua.config.attention import Attention
from residua.config.checks import require_odd_kernels
from residua.config.heads import Head, Pooling
from residua.config.joins import Add, Join
from residua.config.norm import BatchNorm
from residua.config.orders import ORDERS, Order
from residua.config.size_limits import (
    check_classifier_size,
    check_layer_count,
    count_branch_weights,
)
from residua.config.stages import Stage, Stem
from residua.errors import UsageError, unknown_name_error

MAX_EXPAND = 1_024  # our choice
LEAD_KERNEL, LEAD_POOL = 3, 2  # sizes of a convolution and a max-pool in a stage's lead


Shortcut = Literal["none", "pad", "pad-last", "project", "project-all", "pool-project"]
SHORTCUTS = get_args(Shortcut)
BranchStart = Literal["he", "identity", "dirac"]
Fork = Literal["first-unit", "shape-change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One residual unit: a branch of weight layers and a shortcut.

    kernels    kernel sizes of the branch's weight layers; (1, 3, 1) for a bottleneck
    squeeze    divisor of the width: the inner width of a bottleneck is width * expand / squeeze
    expand     factor of the inner width, for widths that `squeeze` alone cannot say
    groups     number of groups of each weight layer between two inner widths, i.e. of a
               bottleneck's 3x3; it is the cardinality of ResNeXt (Xie et al. 2017, Table 1)
    stride_at  index, from 0, of the weight layer that has the stride; 0 in the papers.  A
               bottleneck with 1 is known as "v1.5"
    shortcut   "none" for a plain net; "pad", "project" and "project-all" for options A, B and C of
               He et al. 2015.  "pad" puts half of option A's zero channels before the input's
               channels and half after them; "pad-last" puts all zero channels last.  The papers do
               not say where the zero channels go; "pad" is our choice.  "pool-project" is option B
               with the stride in an average pool before the projection (ResNet-D; He et al. 2019,
               Fig. 2c)
    order      order of BN, ReLU and weight layers
    join       how shortcut and branch are combined
    attention  channel attention at the end of the branch; None for none
    fork       which units of a pre-activation net fork after their first activation, so that their
               shortcut starts from the activated input.  "first-unit": the first unit and those
               that change the shape (He et al. 2016, appendix); "shape-change": only the latter, as
               in timm and pytorchcv
    start      initial weights.  "he": He et al. 2015b.  "identity": the same, but the branch's last
               BN starts at 0, so that the branch outputs 0 (Goyal et al. 2017, section 5.1); if no
               BN follows the last weight layer, that weight layer starts at 0.  "dirac": output
               channel i of each weight layer starts as a copy of its input channel i (Zagoruyko &
               Komodakis 2017, DiracNets); further outputs, and so those of a stage's lead, start
               as in PyTorch, uniform within 1 / sqrt(fan_in)
    norm       settings of every BN of the network
    """

    kernels: tuple[int, ...] = (3, 3)
    squeeze: int = 1
    stride_at: int = 0
    shortcut: Shortcut = "pad"
    order: Order = ORDERS["original"]
    join: Join = field(default=Add())
    start: BranchStart = "he"
    expand: int = field(default=1, metadata={"added_later": True})
    groups: int = field(default=1, metadata={"added_later": True})
    attention: Attention | None = field(default=None, metadata={"added_later": True})
    fork: Fork = field(default="first-unit", metadata={"added_later": True})
    norm: BatchNorm = field(default=BatchNorm(), metadata={"added_later": True})

    def __post_init__(self) -> None:
        if self.shortcut not in SHORTCUTS:
            raise unknown_name_error("shortcut", str(self.shortcut), SHORTCUTS)
        require_odd_kernels(self.kernels)
        if self.squeeze < 1:
            raise UsageError(
                f"squeeze {self.squeeze} is invalid: give a positive number that divides the widths"
            )
        if not 1 <= self.expand <= MAX_EXPAND:
            raise UsageError(f"expand {self.expand} is invalid: give 1 to {MAX_EXPAND:,}")
        if self.groups < 1 or (self.groups > 1 and len(self.kernels) < 3):
            raise UsageError(
                f"{self.groups} groups are invalid for units of {len(self.kernels)} weight layers: "
                "only layers between two others are grouped, as the 3x3 of block=bottleneck"
            )
        if self.fork not in get_args(Fork):
            raise unknown_name_error("fork", str(self.fork), get_args(Fork))
        if not 0 <= self.stride_at < len(self.kernels):
            raise UsageError(
                f"stride_at={self.stride_at} is not the index of a weight layer: "
                f"give 0 to {len(self.kernels) - 1}"
            )
        if self.start not in get_args(BranchStart):
            raise unknown_name_error("start", str(self.start), get_args(BranchStart))
        if self.shortcut == "none":
            self.check_plain()
        if self.start == "identity":
            self.check_identity_start()

    @property
    def branch_ends_in_fixed_scale(self) -> bool:
        """Whether a BN without a learned scale follows the branch's last weight layer."""
        return "bn" in self.order.last.split("weight")[1] and not self.norm.scale

    def inner_width(self, width: int) -> int:
        """Return the outputs of all weight layers but the last, in a unit of `width` outputs."""
        return width * self.expand // self.squeeze

    def layer_groups(self, index: int) -> int:
        """Return the groups of the branch's weight layer at `index`, counted from 0."""
        return self.groups if 0 < index < len(self.kernels) - 1 else 1

    def check_plain(self) -> None:
        """Raise UsageError if this plain unit has parts that make sense only with a shortcut."""
        if self.join != Add():
            join_name = type(self.join).__name__
            raise UsageError(
                f"the join {join_name} needs a shortcut, and a plain net has none: "
                "add a shortcut, or use join=Add()"
            )
        if self.start == "identity":
            raise UsageError(
                "a plain net whose branches start at 0 always outputs 0: "
                "add a shortcut, or use start='he'"
            )
        if self.order.branch_has_skipinit_scale:
            raise UsageError(
                "a plain net whose branches are scaled by 0 always outputs 0: "
                "add a shortcut, or use another order"
            )

    def check_identity_start(self) -> None:
        """Raise UsageError if start="identity" is impossible or unnecessary for this unit."""
        if self.order.branch_has_skipinit_scale:
            raise UsageError(
                "the branch ends in a scale of 0, so it already starts at 0: use start='he'"
            )
        if self.order.last.endswith("relu"):
            raise UsageError(
                f"the branch ends in a ReLU ({self.order.last!r}), which passes no gradient "
                "if the branch starts at 0: use start='he'"
            )
        if self.branch_ends_in_fixed_scale:
            raise UsageError(
                "the branch ends in a BN whose scale is not learned, so a branch that starts at 0 "
                "would stay there: use start='he', or norm.scale=true"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network: a stem, stages of units that all follow `unit`, and a head.

    `input` is (channels, height, width), or (features,) for a fully connected net.
    """

    IS_TRAINED_BY_STEPS: ClassVar[bool] = True  # a run of this network needs a recipe
    CARD_TAG: ClassVar[str] = "residual-network"  # tag of model cards on the Hugging Face hub

    name: str
    input: tuple[int, ...]
    stem: Stem
    stages: tuple[Stage, ...]
    unit: Unit
    classes: int
    head: Pooling = field(default=Head())

    def __post_init__(self) -> None:
        if len(self.input) not in (1, 3) or min(self.input) < 1:
            raise UsageError(
                f"input {self.input} is invalid: give (channels, height, width), or (features,)"
            )
        if self.classes < 1:
            raise UsageError(f"{self.classes} classes are invalid: give at least 1")
        if not self.stages:
            raise UsageError("a network needs at least one stage")
        if len(self.input) == 1:
            self.check_fully_connected()
        self.stem.check_input(self.input)
        widths = [self.stem.width, *(stage.width for stage in self.stages)]
        pads = self.unit.shortcut in ("pad", "pad-last")
        if pads and any(
            before > stage.width and not stage.lead_has_weight
            for before, stage in zip(widths, self.stages, strict=False)
        ):
            raise UsageError(
                "a zero-padded shortcut can only keep or increase the width, but the widths are "
                f"{widths}: use widths that do not decrease, or shortcut='project'"
            )
        for stage in self.stages:
            if stage.width * self.unit.expand % self.unit.squeeze:
                raise UsageError(
                    f"squeeze {self.unit.squeeze} does not divide width "
                    f"{stage.width * self.unit.expand}: choose a divisor of every stage's width"
                )
            if self.unit.inner_width(stage.width) % self.unit.groups:
                raise UsageError(
                    f"{self.unit.groups} groups do not divide the inner width "
                    f"{self.unit.inner_width(stage.width)}: choose a divisor of every inner width"
                )
        # first, because counting the weights takes time in proportion to the layers
        check_layer_count(sum(stage.units for stage in self.stages) * len(self.unit.kernels))
        check_classifier_size(self.name, self.count_weights_without_projections(), self.input)

    def count_weights_without_projections(self) -> int:
        """Count the weights of all layers except projections, without building the layers."""
        unit, channels = self.unit, self.stem.width
        stem_widths = pairwise((self.input[0], *self.stem.inner_widths, channels))
        count = self.stem.kernel**2 * sum(inputs * outputs for inputs, outputs in stem_widths)
        for stage in self.stages:
            inner_width = unit.inner_width(stage.width)
            if stage.lead_has_weight:
                count += LEAD_KERNEL**2 * channels * stage.width
                channels = stage.width
            for inputs, units in ((channels, 1), (stage.width, stage.units - 1)):
                branch = count_branch_weights(
                    unit.kernels, inputs, inner_width, stage.width, unit.groups
                )
                if unit.attention is not None:
                    branch += sum(map(prod, unit.attention.parameter_shapes(stage.width).values()))
                gate = (unit.join.gate_kernel or 0) ** 2 * inputs * stage.width
                count += units * (branch + gate)
            channels = stage.width
        count += self.head.count_pooling_parameters(channels)
        return count + self.head.pooled_channels(channels) * self.classes

    def check_fully_connected(self) -> None:
        """Raise UsageError if a fully connected net has spatial kernels, strides or pooling."""
        kernels = (self.stem.kernel, *self.unit.kernels, self.unit.join.gate_kernel or 1)
        if any(kernel != 1 for kernel in kernels):
            raise UsageError(
                "a fully connected net cannot use kernels larger than 1: "
                "set the kernels of the stem, the units and the gates to 1"
            )
        strides = [self.stem.stride, *(stage.stride for stage in self.stages)]
        if self.unit.attention is not None:
            raise UsageError(
                "a fully connected net has no image positions whose mean an attention could take: "
                "leave attention out"
            )
        has_pools = any(stage.pool or stage.lead for stage in self.stages)
        if max(strides) > 1 or self.stem.pool or has_pools:
            raise UsageError(
                "a fully connected net has no image positions, so it cannot stride or pool: "
                "set all strides to 1, and remove the pooling"
            )
        if self.head.op_name != "mean":
            raise UsageError(
                "a fully connected net has no image positions, so its head cannot pool them: "
                "use head=Head()"
            )
