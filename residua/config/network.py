"""What a residual network is, as data.

A network is a stem, stages of units, and a head.  A unit is (He et al. 2016, Eq. 1-2)

    y = after(join(shortcut(x), branch(x)))

and each published variant is a choice of those parts.  Values are frozen; a contradiction is refused when it is made.
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from residua.errors import UsageError, unknown_name_error

ORDER_OPS = ("weight", "bn", "relu", "scale")


@dataclass(frozen=True, slots=True)
class Order:
    """Where BN and ReLU stand around the weight layers (He et al. 2016, Fig. 4), as sentences of `weight`, `bn`, `relu`.

    `scale` multiplies by one learned number that starts at 0: SkipInit (De & Smith 2020), ReZero (Bachlechner et al. 2020).
    """

    each: str  # every weight layer of the branch but the last
    last: str  # the last weight layer of the branch
    after: str = ""  # on the sum
    project: str = "weight bn"  # a projection shortcut
    stem: str = "weight bn relu"
    tail: str = ""  # once, between the last unit and the head

    def __post_init__(self) -> None:
        for name in self.__slots__:
            words = getattr(self, name).split()
            for word in words:
                if word not in ORDER_OPS:
                    raise unknown_name_error("operation", word, ORDER_OPS)
            if "scale" in words and name not in ("each", "last"):
                raise UsageError(
                    f"order {name}={getattr(self, name)!r} must hold no 'scale', which ends a branch"
                )
            wanted = 0 if name in ("after", "tail") else 1
            if words.count("weight") != wanted:
                raise UsageError(
                    f"order {name}={getattr(self, name)!r} must hold 'weight' {('never', 'exactly once')[wanted]}"
                )

    @property
    def has_biases(self) -> bool:
        """Weight layers carry a bias only where no BN would remove it."""
        return "bn" not in f"{self.stem} {self.each} {self.last}"


ORDERS = {
    "original": Order("weight bn relu", "weight bn", after="relu"),
    "bn-after-add": Order("weight bn relu", "weight", after="bn relu"),
    "relu-before-add": Order("weight bn relu", "weight bn relu"),
    "no-relu-after-add": Order("weight bn relu", "weight bn"),
    "relu-preact": Order("relu weight bn", "relu weight bn", stem="weight bn", tail="relu"),
    "full-preact": Order(
        "bn relu weight", "bn relu weight", stem="weight", project="weight", tail="bn relu"
    ),
    "bare": Order("weight relu", "weight", after="relu", stem="weight relu", project="weight"),
    "skipinit": Order(
        "weight relu", "weight scale", after="relu", stem="weight relu", project="weight"
    ),
    "skipinit-preact": Order(
        "relu weight", "relu weight scale", stem="weight", project="weight", tail="relu"
    ),
    "highway": Order("weight relu", "weight relu", stem="weight relu", project="weight"),
}
"""The five orders of He et al. 2016, Fig. 4 and Table 2, and the original one whose sum no ReLU cuts (Gross & Wilber 2016); the
order without BN, and its forms whose branch starts at 0; and that of Highway networks (Srivastava et al. 2015, Eq. 3), whose
gate stands around a whole layer, ReLU included."""


@dataclass(frozen=True, slots=True)
class Add:
    """x + F(x) (He et al. 2015, Eq. 1)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """a x + b F(x), constant scaling (He et al. 2016, Fig. 2b)."""

    shortcut: float = 1.0
    branch: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.shortcut) and isfinite(self.branch)):
            raise UsageError(
                f"scaling by {self.shortcut} and {self.branch} is impossible: give finite numbers"
            )
        if self.shortcut == 0:
            raise UsageError("a shortcut scaled by 0 is no shortcut: use shortcut='none'")


@dataclass(frozen=True, slots=True)
class Gate:
    """(1 - g) x + g F(x) with g = sigmoid(W x + bias): Highway, and He et al. 2016, Fig. 2c-d."""

    bias: float
    kernel: int = 1
    scales: Literal["both", "shortcut"] = "both"  # "shortcut": (1 - g) x + F(x)

    def __post_init__(self) -> None:
        if self.scales not in ("both", "shortcut"):
            raise unknown_name_error("scaling by a gate", str(self.scales), ("both", "shortcut"))
        if not isfinite(self.bias):
            raise UsageError(f"a gate's bias of {self.bias} is impossible: give a finite number")
        check_kernels((self.kernel,))


@dataclass(frozen=True, slots=True)
class Drop:
    """Dropout on the shortcut (He et al. 2016, Fig. 2f), and stochastic depth (Huang et al. 2016, section 3).

    `shortcut` is the probability of each activation, `branch` that of the last unit's whole branch; it falls along a line to
    0 at the input.  Our choice: drawn for each image, and what is kept is divided by its probability in training, so that a
    trained net computes the same with and without it.
    """

    shortcut: float = 0.0
    branch: float = 0.0

    def __post_init__(self) -> None:
        for probability in (self.shortcut, self.branch):
            if not 0 <= probability < 1:
                raise UsageError(
                    f"a dropout probability of {probability} is impossible: it must be in [0, 1)"
                )


Join = Add | Scale | Gate | Drop
Shortcut = Literal["none", "pad", "pad-last", "project", "project-all"]
SHORTCUTS = get_args(Shortcut)
BranchStart = Literal["he", "identity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One residual unit: a branch of weight layers beside a shortcut."""

    kernels: tuple[int, ...] = (3, 3)  # one weight layer each; (1, 3, 1) is the bottleneck
    squeeze: int = 1  # inner width = width / squeeze
    stride_at: int = 0  # which weight layer strides: 0 is the papers', 1 in a bottleneck is "v1.5"
    shortcut: Shortcut = (
        "pad"  # none is plain; pad, project, project-all are options A, B, C of He et al. 2015;
    )
    # the zero channels of pad stand on both sides, those of pad-last come last: our choice, the papers do not say
    order: Order = ORDERS["original"]
    join: Join = field(default=Add())
    start: BranchStart = "he"  # identity: the branch's last BN, or else its last weight layer, starts at 0 (Goyal et al. 2017, 5.1)

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
                f"stride_at={self.stride_at} names no weight layer: choose 0 to {len(self.kernels) - 1}"
            )
        if self.shortcut == "none" and self.join != Add():
            raise UsageError(
                f"a plain net has no shortcut to {type(self.join).__name__.lower()}: give a shortcut, or join=Add()"
            )
        if self.start not in get_args(BranchStart):
            raise unknown_name_error("start", str(self.start), get_args(BranchStart))
        if self.start == "identity" and self.shortcut == "none":
            raise UsageError(
                "a plain net that starts with branches of 0 gives 0 everywhere: give a shortcut, or start='he'"
            )
        if (
            self.start == "identity"
            and self.order.last.endswith("relu")
            and "scale" not in self.order.last
        ):
            raise UsageError(
                f"a ReLU that ends the branch ({self.order.last!r}) passes no gradient at 0: keep start='he'"
            )
        if self.shortcut == "none" and "scale" in f"{self.order.each} {self.order.last}":
            raise UsageError(
                "a plain net whose branches are scaled by 0 gives 0 everywhere: give a shortcut, or another order"
            )
        if self.start == "identity" and "scale" in f"{self.order.each} {self.order.last}":
            raise UsageError(
                "a branch that ends in a scale of 0 starts as the identity already: keep start='he'"
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """Units of one width; the first of them strides, or stands behind a 3x3 max-pool of stride 2 where `pool`."""

    width: int  # channels out of every unit
    units: int
    stride: int = 1
    pool: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.units, self.stride) < 1:
            raise UsageError(
                f"a stage of width {self.width}, {self.units} units and stride {self.stride} is impossible: each must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first weight layer, and a 3x3 max-pool of stride 2 where `pool` (He et al. 2015, Table 1)."""

    width: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False

    def __post_init__(self) -> None:
        check_kernels((self.kernel,))
        if min(self.width, self.stride) < 1:
            raise UsageError(
                f"a stem of width {self.width} and stride {self.stride} is impossible: each must be at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """From the last feature map to class scores: pooling, then a fully connected layer.

    "vlad" sums the residuals of all positions to each of `words` learned centres (Arandjelovic et al. 2016, Eq. 4).
    """

    pool: Literal["mean", "vlad"] = "mean"
    words: int = 16

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "vlad"):
            raise unknown_name_error("pooling", str(self.pool), ("mean", "vlad"))
        if self.words < 1:
            raise UsageError(f"VLAD with {self.words} words is impossible: give at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A whole network."""

    name: str
    input: tuple[int, ...]  # (channels, height, width), or (features,) for a fully connected net
    stem: Stem
    stages: tuple[Stage, ...]
    unit: Unit
    classes: int
    head: Head = field(default=Head())

    def __post_init__(self) -> None:
        if len(self.input) not in (1, 3) or min(self.input) < 1:
            raise UsageError(
                f"input {self.input} is impossible: give (channels, height, width), or (features,)"
            )
        if self.classes < 1:
            raise UsageError(f"{self.classes} classes are impossible: give at least 1")
        if not self.stages:
            raise UsageError("a network needs at least one stage")
        gate = (self.unit.join.kernel,) if isinstance(self.unit.join, Gate) else ()
        if len(self.input) == 1 and any(
            k != 1 for k in (self.stem.kernel, *self.unit.kernels, *gate)
        ):
            raise UsageError(
                "a fully connected net has no neighbours to convolve: give stem, units and gates kernels of 1"
            )
        if len(self.input) == 1 and (
            self.stem.pool
            or self.stem.stride > 1
            or any(s.pool or s.stride > 1 for s in self.stages)
        ):
            raise UsageError(
                "a fully connected net has no positions to skip or to pool: give strides of 1, and no pooling"
            )
        if len(self.input) == 1 and self.head.pool != "mean":
            raise UsageError("a fully connected net has no positions to pool: give head=Head()")
        widths = [self.stem.width, *(stage.width for stage in self.stages)]
        if self.unit.shortcut in ("pad", "pad-last") and widths != sorted(widths):
            raise UsageError(
                f"zeros cannot make widths {widths} smaller: give growing widths, or shortcut='project'"
            )
        for stage in self.stages:
            if stage.width % self.unit.squeeze:
                raise UsageError(
                    f"squeeze {self.unit.squeeze} does not divide width {stage.width}: choose a divisor"
                )


def check_kernels(kernels: tuple[int, ...]) -> None:
    if not kernels or any(k < 1 or k % 2 == 0 for k in kernels):
        raise UsageError(
            f"kernels {kernels} are impossible: give at least one, each odd, so that 'same' convolutions keep shapes"
        )
