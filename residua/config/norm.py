"""The settings of batch normalization (BN)."""

from dataclasses import dataclass
from math import isfinite

from residua.config.checks import check_range
from residua.errors import UsageError

USUAL_EPSILON, USUAL_MOMENTUM = 1e-5, 0.1  # PyTorch's


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """The settings of every BN of a network (Ioffe & Szegedy 2015).

    eps       the constant that is added to the variance
    momentum  weight of a batch in the running statistics, as in PyTorch
    scale     whether BN learns a scale for each channel; without, the scales stay 1.  A shift is
              always learned
    """

    eps: float = USUAL_EPSILON
    momentum: float = USUAL_MOMENTUM
    scale: bool = True

    def __post_init__(self) -> None:
        if not (self.eps > 0 and isfinite(self.eps)):
            raise UsageError(f"eps={self.eps} is invalid: give a number above 0")
        check_range(self.momentum, "momentum", 0, 1, may_equal_high=True)
