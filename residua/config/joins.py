"""How a unit combines its shortcut and its branch F: addition, scaling, gates and dropout."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

from residua.config.checks import require_odd_kernels
from residua.config.registry import Part, register
from residua.errors import UsageError, unknown_name_error

SavedTensor = Literal["shortcut", "branch", "gate", "new"]
"""A tensor that the join's backward pass reads; it has the shape of the unit's output.
"shortcut", "branch" and "gate" are the join's operands; "new" is a tensor that the join computes.
"""


class Join(Part):
    """Base class of joins, which combine a unit's two paths: y = join(x, shortcut, branch).

    The standard join is the sum of He et al. 2016, Eq. 1; the others replace the sum.  `x` is the
    unit's input, `shortcut` the output of the shortcut and `branch` the output of the branch.  If
    the shortcut is the identity, `shortcut` is x.

    The implementation is a function `f(join, gate_layers) -> nn.Module`.  `gate_layers` holds the
    planned weight layer of the gate, or is () if the join has no gate.  The module's forward takes
    x, the shortcut and the branch, each (n, c, h, w) or (n, c).  It returns a tensor of the
    branch's shape.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def symbol(self) -> str:
        """The character that diagrams print in the join's circle, e.g. "+"."""

    @property
    @abstractmethod
    def formula(self) -> str:
        """The join as a formula of x (the shortcut's output), F (the branch) and g (the gate).

        The formula is "" for the plain sum x + F.
        """

    @property
    @abstractmethod
    def saved_tensors(self) -> tuple[SavedTensor, ...]:
        """The tensors that the join's backward pass reads."""

    @property
    def gate_kernel(self) -> int | None:
        """Kernel size of the weight layer that computes the gate; None if the join has no gate."""
        return None

    @property
    def expected_output_is_sum(self) -> bool:
        """Whether the output is shortcut + branch, exactly or (with dropout) in expectation."""
        return False

    def at_depth(self, fraction: float) -> "Join":
        """Return the join of the unit at relative depth `fraction`, in (0, 1].

        `fraction` is the unit's number, counted from 1, divided by the number of units.
        """
        return self


@register
@dataclass(frozen=True, slots=True)
class Add(Join):
    """The plain sum x + F(x) (He et al. 2015, Eq. 1)."""

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
    """The sum a x + b F(x), with a = `shortcut` and b = `branch` (He et al. 2016, Fig. 2b)."""

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
    """The gated sum (1 - g) x + g F(x), with the gate g = sigmoid(W x + bias).

    This is the join of Highway networks and of He et al. 2016, Fig. 2c.  With `scales="shortcut"`
    only the shortcut is scaled, as in Fig. 2d: (1 - g) x + F(x).

    bias    initial bias of the gate
    kernel  kernel size of W
    """

    bias: float
    kernel: int = 1
    scales: Literal["both", "shortcut"] = "both"

    def __post_init__(self) -> None:
        if self.scales not in ("both", "shortcut"):
            raise unknown_name_error("gate scaling", str(self.scales), ("both", "shortcut"))
        if not isfinite(self.bias):
            raise UsageError(f"a gate's bias of {self.bias} is invalid: give a finite number")
        require_odd_kernels((self.kernel,))

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
    def gate_kernel(self) -> int:
        return self.kernel


@register
@dataclass(frozen=True, slots=True)
class Drop(Join):
    """Dropout on the shortcut (He et al. 2016, Fig. 2f) and stochastic depth (Huang et al. 2016).

    `shortcut` is the probability of dropping a single activation of the shortcut.  `branch` is the
    probability of dropping the whole branch of the last unit; for earlier units it decreases
    linearly, to 0 at the input (Huang et al. 2016, Eq. 4).

    Our choice: drops are drawn separately for each image.  In training, the kept values are divided
    by the probability of keeping them, so that evaluation needs no correction.
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
