"""The order of BN, ReLU and weight layers in a unit, and the orders of the papers."""

from dataclasses import dataclass

from residua.errors import UsageError, unknown_name_error

ORDER_OPS = ("weight", "bn", "relu", "scale", "silu")


@dataclass(frozen=True, slots=True)
class Order:
    """The order of BN, ReLU and weight layers in a unit (He et al. 2016, Fig. 4).

    Each field is a string of operations separated by spaces: `weight`, `bn`, `relu`, `silu` and
    `scale`.  `silu` is x * sigmoid(x) (Elfwing et al. 2018).  `scale` multiplies by one learned
    number that starts at 0, as in SkipInit (De & Smith 2020) and ReZero (Bachlechner et al. 2020).
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
                raise UsageError(
                    f"{sentence} must not contain 'scale': "
                    "a scale is only allowed at the end of a branch"
                )
            weight_count = 0 if name in ("after", "tail") else 1
            if ops.count("weight") != weight_count:
                times = ("never", "exactly once")[weight_count]
                raise UsageError(f"{sentence} must contain 'weight' {times}")

    @property
    def has_biases(self) -> bool:
        """Whether weight layers have biases; with BN they have none, because BN cancels them."""
        return "bn" not in f"{self.stem} {self.each} {self.last}"

    @property
    def branch_has_skipinit_scale(self) -> bool:
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
    # "full-preact" with BN and ReLU after the stem too, as pytorchcv has it for ImageNet
    "full-preact-bn-stem": Order(
        "bn relu weight", "bn relu weight", project="weight", tail="bn relu"
    ),
    # the same without BN and ReLU before the head, as pytorchcv's SE-PreResNets for CIFAR have it
    "full-preact-no-tail": Order("bn relu weight", "bn relu weight", project="weight"),
    # "original" without the ReLU after the addition (Gross & Wilber 2016)
    "no-relu-after-add": Order("weight bn relu", "weight bn"),
    # without BN; in "skipinit" and "skipinit-preact" the branch also starts at 0
    "bare": Order("weight relu", "weight", after="relu", stem="weight relu", project="weight"),
    "skipinit": Order(
        "weight relu", "weight scale", after="relu", stem="weight relu", project="weight"
    ),
    "skipinit-preact": Order(
        "relu weight", "relu weight scale", stem="weight", project="weight", tail="relu"
    ),
    # "original" with SiLU
    "silu": Order("weight bn silu", "weight bn", after="silu", stem="weight bn silu"),
    # Highway networks, whose gate is applied to a whole layer (Srivastava et al. 2015, Eq. 3)
    "highway": Order("weight relu", "weight relu", stem="weight relu", project="weight"),
}
"""The orders of BN, ReLU and weights that are known by name."""
