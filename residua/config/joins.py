"""How a unit combines its shortcut and its branch F: addition, scaling, gates and dropout."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

from residua.config.checks import check_kernels
from residua.config.registry import Part, register
from residua.errors import UsageError, unknown_name_error

SavedTensor = Literal["shortcut", "branch", "gate", "new"]
"""A tensor that the join's backward pass reads, of the unit's output shape: an operand of the
join, or "new", a tensor that the join itself makes.
"""


class Join(Part):
    """How a unit combines its shortcut and its branch: y = join(x, shortcut, branch).

    The standard join is the sum of He et al. 2016, Eq. 1; the others replace the sum.  `x` is the
    unit's input and `shortcut` the output of the shortcut, which is x if the shortcut is the
    identity.

    The implementation is a function `f(join, gate_layers) -> nn.Module`.  The module's forward
    takes x, the shortcut and the branch, each (n, c, h, w) or (n, c), and returns a tensor of the
    shape of the branch.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def symbol(self) -> str:
        """One character for the circle in a diagram, e.g. "+"."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """The join as a formula of x (the shortcut's output), F (the branch) and g (the gate).

        "" stands for the plain sum x + F.
        """

    @property
    @abstractmethod
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        """The tensors that the join's backward pass reads."""

    @property
    def gate_kernel(self) -> int | None:
        """Kernel size of the weight layer that computes the gate from x; None without a gate."""
        return None

    @property
    def expected_output_is_sum(self) -> bool:
        """Whether the join's output equals shortcut + branch in expectation, e.g. with dropout."""
        return False

    def at_depth(self, fraction: float) -> "Join":
        """Return the join for a unit, given the `fraction` in (0, 1] of units up to and with it."""
        return self


@register
@dataclass(frozen=True, slots=True)
class Add(Join):
    """x + F(x) (He et al. 2015, Eq. 1)."""

    @property
    def symbol(self) -> str:
        return "+"

    @property
    def formula(self) -> str:
        return ""

    @property
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        return ()

    @property
    def expected_output_is_sum(self) -> bool:
        return True


@register
@dataclass(frozen=True, slots=True)
class Scale(Join):
    """a x + b F(x), constant scaling (He et al. 2016, Fig. 2b)."""

    shortcut: float = 1.0
    branch: float = 1.0

    def __post_init__(self) -> None:
        if not (isfinite(self.shortcut) and isfinite(self.branch)):
            raise UsageError(
                f"the shortcut scale {self.shortcut} and the branch scale {self.branch} "
                "must both be finite numbers"
            )
        if self.shortcut == 0:
            raise UsageError("a shortcut scaled by 0 is not a shortcut: use shortcut='none'")

    @property
    def symbol(self) -> str:
        return "+"

    @property
    def formula(self) -> str:
        return f"{self.shortcut:g} x + {self.branch:g} F"

    @property
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        return ()

    @property
    def expected_output_is_sum(self) -> bool:
        return self.shortcut == self.branch == 1


@register
@dataclass(frozen=True, slots=True)
class Gate(Join):
    """(1 - g) x + g F(x) with g = sigmoid(W x + bias): Highway, and He et al. 2016, Fig. 2c-d.

    With `scales="shortcut"` only the shortcut is scaled: (1 - g) x + F(x).
    """

    bias: float
    kernel: int = 1
    scales: Literal["both", "shortcut"] = "both"

    def __post_init__(self) -> None:
        if self.scales not in ("both", "shortcut"):
            raise unknown_name_error("gate scaling", str(self.scales), ("both", "shortcut"))
        if not isfinite(self.bias):
            raise UsageError(f"a gate's bias of {self.bias} is invalid: give a finite number")
        check_kernels((self.kernel,))

    @property
    def symbol(self) -> str:
        return "g"

    @property
    def formula(self) -> str:
        return "(1 − g) x + g F" if self.scales == "both" else "(1 − g) x + F"

    @property
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        if self.scales == "both":
            return "shortcut", "branch", "gate", "new"  # the new one is 1 - g
        return "shortcut", "gate", "new"

    @property
    def gate_kernel(self) -> int | None:
        return self.kernel


@register
@dataclass(frozen=True, slots=True)
class Drop(Join):
    """Dropout on the shortcut (He et al. 2016, Fig. 2f) and stochastic depth (Huang et al. 2016).

    `shortcut` is the probability of dropping a single activation of the shortcut.  `branch` is the
    probability of dropping the whole branch of the last unit; for earlier units it decreases
    linearly, to 0 at the input (Huang et al. 2016, Eq. 4).  Our choice: drops are drawn separately
    for each image, and in training the kept values are divided by their probability, so that
    evaluation needs no correction.
    """

    shortcut: float = 0.0
    branch: float = 0.0

    def __post_init__(self) -> None:
        for probability in (self.shortcut, self.branch):
            if not 0 <= probability < 1:
                raise UsageError(
                    f"a dropout probability of {probability} is invalid: it must be in [0, 1)"
                )

    @property
    def symbol(self) -> str:
        return "+"

    @property
    def formula(self) -> str:
        terms = []
        if self.shortcut:
            terms.append(f"dropout {self.shortcut:g} of x")
        if self.branch:
            terms.append(f"drop-path {self.branch:.2g} of F")
        return ", ".join(terms)

    @property
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        return ("new",) if self.shortcut else ()  # the mask

    @property
    def expected_output_is_sum(self) -> bool:
        return True

    def at_depth(self, fraction: float) -> "Drop":
        return replace(self, branch=self.branch * fraction)


register(Add, names={"add": Add()})
register(Scale, names={"constant": Scale(0.5, 0.5)})  # He et al. 2016, Table 1
register(
    Gate,
    names={
        "exclusive-gate": Gate(bias=-6.0),
        "shortcut-gate": Gate(bias=-6.0, scales="shortcut"),
    },
)
register(
    Drop,
    names={
        "dropout": Drop(shortcut=0.5),
        "drop-path": Drop(branch=0.5),  # Huang et al. 2016, section 4
    },
)
