"""A residual network as data: a stem, stages of units, and a head.

A unit is (He et al. 2016, Eq. 1-2)

    y = after(join(shortcut(x), branch(x)))

and each published variant is a choice of these parts.  Values are frozen, and contradictions are
refused when a value is made.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from residua.config.checks import check_kernels
from residua.config.heads import Head, Pooling
from residua.config.joins import Add, Join
from residua.errors import UsageError, unknown_name_error

ORDER_OPS = ("weight", "bn", "relu", "scale")


@dataclass(frozen=True, slots=True)
class Order:
    """Where BN and ReLU stand around the weight layers (He et al. 2016, Fig. 4).

    Each field is a sentence of `weight`, `bn`, `relu` and `scale`.  `scale` multiplies by one
    learned number that starts at 0: SkipInit (De & Smith 2020), ReZero (Bachlechner et al. 2020).
    """

    each: str  # every weight layer of the branch but the last
    last: str  # the last weight layer of the branch
    after: str = ""  # after the join
    project: str = "weight bn"  # a projection shortcut
    stem: str = "weight bn relu"
    tail: str = ""  # once, between the last unit and the head

    def __post_init__(self) -> None:
        for name in self.__slots__:
            ops = getattr(self, name).split()
            for op in ops:
                if op not in ORDER_OPS:
                    raise unknown_name_error("operation", op, ORDER_OPS)
            sentence = f"order {name}={getattr(self, name)!r}"
            if "scale" in ops and name not in ("each", "last"):
                raise UsageError(f"{sentence} must hold no 'scale', which ends a branch")
            weight_count = 0 if name in ("after", "tail") else 1
            if ops.count("weight") != weight_count:
                times = ("never", "exactly once")[weight_count]
                raise UsageError(f"{sentence} must hold 'weight' {times}")

    @property
    def has_biases(self) -> bool:
        """Whether weight layers have biases: only if no BN would remove them."""
        return "bn" not in f"{self.stem} {self.each} {self.last}"

    @property
    def branch_has_scale(self) -> bool:
        """Whether the branch is multiplied by a learned number that starts at 0."""
        return "scale" in f"{self.each} {self.last}"


ORDERS = {
    # He et al. 2016, Fig. 4 and Table 2
    "original": Order("weight bn relu", "weight bn", after="relu"),
    "bn-after-add": Order("weight bn relu", "weight", after="bn relu"),
    "relu-before-add": Order("weight bn relu", "weight bn relu"),
    "relu-preact": Order("relu weight bn", "relu weight bn", stem="weight bn", tail="relu"),
    "full-preact": Order(
        "bn relu weight", "bn relu weight", stem="weight", project="weight", tail="bn relu"
    ),
    # the original one without the ReLU after the addition (Gross & Wilber 2016)
    "no-relu-after-add": Order("weight bn relu", "weight bn"),
    # without BN; and branches that start at 0
    "bare": Order("weight relu", "weight", after="relu", stem="weight relu", project="weight"),
    "skipinit": Order(
        "weight relu", "weight scale", after="relu", stem="weight relu", project="weight"
    ),
    "skipinit-preact": Order(
        "relu weight", "relu weight scale", stem="weight", project="weight", tail="relu"
    ),
    # Highway networks, whose gate stands around a whole layer (Srivastava et al. 2015, Eq. 3)
    "highway": Order("weight relu", "weight relu", stem="weight relu", project="weight"),
}

Shortcut = Literal["none", "pad", "pad-last", "project", "project-all"]
SHORTCUTS = get_args(Shortcut)
BranchStart = Literal["he", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One residual unit: a branch of weight layers and a shortcut.

    kernels    sides of the branch's weight layers; (1, 3, 1) is the bottleneck
    squeeze    the inner width is width / squeeze
    stride_at  the weight layer that strides, from 0; 0 is the papers', 1 in a bottleneck is "v1.5"
    shortcut   none is a plain net; pad, project and project-all are options A, B and C of He et al.
               2015.  Option A's channels of zeros stand on both sides with pad, and last with
               pad-last: our choice, the papers do not say
    order      where BN and ReLU stand
    join       how shortcut and branch are combined
    start      initial weights: "he" (He et al. 2015b); with "identity" the branch's last BN, or
               else its last weight layer, starts at 0 (Goyal et al. 2017, section 5.1)
    """

    kernels: tuple[int, ...] = (3, 3)
    squeeze: int = 1
    stride_at: int = 0
    shortcut: Shortcut = "pad"
    order: Order = ORDERS["original"]
    join: Join = field(default=Add())
    start: BranchStart = "he"

    def __post_init__(self) -> None:
        if self.shortcut not in SHORTCUTS:
            raise unknown_name_error("shortcut", str(self.shortcut), SHORTCUTS)
        check_kernels(self.kernels)
        if self.squeeze < 1:
            raise UsageError(
                f"squeeze {self.squeeze} is impossible: give a divisor of the widths, from 1 on"
            )
        if not 0 <= self.stride_at < len(self.kernels):
            raise UsageError(
                f"stride_at={self.stride_at} names no weight layer: "
                f"choose 0 to {len(self.kernels) - 1}"
            )
        if self.start not in get_args(BranchStart):
            raise unknown_name_error("start", str(self.start), get_args(BranchStart))
        if self.shortcut == "none":
            self.check_plain()
        if self.start == "identity":
            self.check_identity_start()

    def check_plain(self) -> None:
        """UsageError for parts that only make sense with a shortcut."""
        if self.join != Add():
            join_name = type(self.join).__name__.lower()
            raise UsageError(
                f"a plain net has no shortcut to {join_name}: give a shortcut, or join=Add()"
            )
        if self.start == "identity":
            raise UsageError(
                "a plain net that starts with branches of 0 gives 0 everywhere: "
                "give a shortcut, or start='he'"
            )
        if self.order.branch_has_scale:
            raise UsageError(
                "a plain net whose branches are scaled by 0 gives 0 everywhere: "
                "give a shortcut, or another order"
            )

    def check_identity_start(self) -> None:
        """UsageError if the branch cannot or need not be made to start at 0."""
        if self.order.branch_has_scale:
            raise UsageError(
                "a branch that ends in a scale of 0 starts as the identity already: keep start='he'"
            )
        if self.order.last.endswith("relu"):
            raise UsageError(
                f"a ReLU that ends the branch ({self.order.last!r}) passes no gradient at 0: "
                "keep start='he'"
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """Units of one width.

    width   output channels of every unit
    units   how many
    stride  of the first unit
    pool    whether a 3x3 max-pool of stride 2 stands before the first unit
    """

    width: int
    units: int
    stride: int = 1
    pool: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.units, self.stride) < 1:
            raise UsageError(
                f"a stage of width {self.width}, {self.units} units and stride {self.stride} is "
                "impossible: each must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first weight layer, with a 3x3 max-pool of stride 2 if `pool` (He et al. 2015, Table
    1)."""

    width: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False

    def __post_init__(self) -> None:
        check_kernels((self.kernel,))
        if min(self.width, self.stride) < 1:
            raise UsageError(
                f"a stem of width {self.width} and stride {self.stride} is impossible: "
                "each must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A whole network.

    `input` is (channels, height, width), or (features,) for a fully connected net.
    """

    IS_TRAINED_BY_STEPS: ClassVar[bool] = True  # so that a run needs a recipe
    CARD_TAG: ClassVar[str] = "residual-network"  # of model cards on the Hugging Face hub

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
                f"input {self.input} is impossible: give (channels, height, width), or (features,)"
            )
        if self.classes < 1:
            raise UsageError(f"{self.classes} classes are impossible: give at least 1")
        if not self.stages:
            raise UsageError("a network needs at least one stage")
        if len(self.input) == 1:
            self.check_fully_connected()
        widths = [self.stem.width, *(stage.width for stage in self.stages)]
        if self.unit.shortcut in ("pad", "pad-last") and widths != sorted(widths):
            raise UsageError(
                f"zeros cannot make widths {widths} smaller: "
                "give growing widths, or shortcut='project'"
            )
        for stage in self.stages:
            if stage.width % self.unit.squeeze:
                raise UsageError(
                    f"squeeze {self.unit.squeeze} does not divide width {stage.width}: "
                    "choose a divisor"
                )

    def check_fully_connected(self) -> None:
        """UsageError for parts that need positions: kernels, strides and pooling."""
        kernels = (self.stem.kernel, *self.unit.kernels, self.unit.join.gate_kernel or 1)
        if any(kernel != 1 for kernel in kernels):
            raise UsageError(
                "a fully connected net has no neighbours to convolve: "
                "give stem, units and gates kernels of 1"
            )
        strides = [self.stem.stride, *(stage.stride for stage in self.stages)]
        if max(strides) > 1 or self.stem.pool or any(stage.pool for stage in self.stages):
            raise UsageError(
                "a fully connected net has no positions to skip or to pool: "
                "give strides of 1, and no pooling"
            )
        if self.head.layer_op != "mean":
            raise UsageError("a fully connected net has no positions to pool: give head=Head()")
