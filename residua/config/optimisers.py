"""The optimisers, described by their momenta and weight decay."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from residua.config.checks import check_range
from residua.config.registry import Part, register
from residua.errors import UsageError

DecayScope = Literal["all", "weights", "units"]
"""What weight decay applies to: "all" means all parameters; "weights" means neither BN parameters
nor biases; "units" means only the weights of the units.
"""


MAX_ROUNDS = 100  # far more than are of use; our choice


class Optimiser(Part):
    """Base class of optimisers: update rules without the learning rate, which the schedule gives.

    The implementation is a function `f(optimiser, groups) -> torch.optim.Optimizer`.  `groups` are
    torch's parameter groups.  Each group has "weight_decay"; "lr_scale", a factor on the learning
    rate; and "is_unit_weights".  If `decay` is "units", "is_unit_weights" is True for the weights
    of the units; in all other cases it is False.
    """

    __slots__ = ()

    USUAL_LR: ClassVar[float | None] = None
    """A learning rate that usually trains; None if there is none, so that it must be given."""

    TAKES_LR_AS_TENSOR: ClassVar[bool] = False
    """Whether, on a GPU, the torch optimiser takes each group's "lr" as a scalar tensor there, and
    does the same work in each step without waiting for the GPU, so that a CUDA graph can hold it.
    """

    weight_decay: float
    decay: DecayScope

    @property
    @abstractmethod
    def description(self) -> str:
        """Name and settings in words, e.g. `SGD with momentum 0.9 and weight decay 0.0001`."""

    @property
    @abstractmethod
    def states_per_parameter(self) -> int:
        """The number of values, such as momenta, that the optimiser keeps for each parameter."""

    @property
    def lr_scale_outside_units(self) -> float:
        """Factor on the learning rate of all parameters except the weights of the units.

        The factor is for optimisers whose `decay` is "units".
        """
        return 1.0

    @property
    def lr_scale_of_head(self) -> float:
        """Factor on the learning rate of the last layer; of use if its `decay` is "units"."""
        return self.lr_scale_outside_units

    @property
    def decay_outside_units(self) -> float:
        """Weight decay of all parameters except the units' weights, if its `decay` is "units".

        It is divided by the factors above, so that its effect on a step is that of the schedule's
        learning rate alone.
        """
        return 0.0


@register
@dataclass(frozen=True, slots=True)
class Sgd(Optimiser):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient.

    This is the rule of the papers.  Whether BN parameters and biases are decayed is our choice: the
    papers do not say.
    """

    USUAL_LR: ClassVar[float | None] = 0.1  # He et al. 2015
    TAKES_LR_AS_TENSOR: ClassVar[bool] = True

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)
        if self.nesterov and not self.momentum:
            raise UsageError(
                "nesterov needs momentum above 0: raise momentum, or leave nesterov out"
            )

    @property
    def description(self) -> str:
        if not self.momentum:
            return f"SGD without momentum, weight decay {self.weight_decay:g}"
        nesterov = "Nesterov's " if self.nesterov else ""
        return (
            f"SGD with {nesterov}momentum {self.momentum:g} and weight decay {self.weight_decay:g}"
        )

    @property
    def states_per_parameter(self) -> int:
        return int(self.momentum > 0)


@register
@dataclass(frozen=True, slots=True)
class AdamW(Optimiser):
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019)."""

    USUAL_LR: ClassVar[float | None] = 0.001  # Kingma & Ba 2015
    TAKES_LR_AS_TENSOR: ClassVar[bool] = True

    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        check_range(self.beta1, "beta1", 0, 1)
        check_range(self.beta2, "beta2", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)

    @property
    def description(self) -> str:
        betas = f"{self.beta1:g} and {self.beta2:g}"
        return f"AdamW with betas {betas} and weight decay {self.weight_decay:g}"

    @property
    def states_per_parameter(self) -> int:
        return 2


@register
@dataclass(frozen=True, slots=True)
class RmsProp(Optimiser):
    """RMSprop: gradients are divided by their running root mean square (Tieleman & Hinton 2012)."""

    USUAL_LR: ClassVar[float | None] = 0.001  # Tieleman & Hinton 2012
    TAKES_LR_AS_TENSOR: ClassVar[bool] = True

    smoothing: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 1e-4
    decay: Literal["all", "weights"] = "all"

    def __post_init__(self) -> None:
        check_range(self.smoothing, "smoothing", 0, 1)
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)

    @property
    def description(self) -> str:
        return (
            f"RMSprop with smoothing {self.smoothing:g}, momentum {self.momentum:g} "
            f"and weight decay {self.weight_decay:g}"
        )

    @property
    def states_per_parameter(self) -> int:
        return 1 + (self.momentum > 0)


@register
@dataclass(frozen=True, slots=True)
class Muon(Optimiser):
    """Orthogonalised Nesterov momentum for the weights of the units (Jordan et al. 2024).

    All other parameters (those of the stem, the head and BN, and biases) are trained with Nesterov
    momentum, at `lr_scale` times the learning rate.  The units' weight decay is decoupled: it is
    multiplied by the learning rate and not added to the gradient.

    rounds             Newton-Schulz steps of the orthogonalisation
    normalise_weights  whether each weight of the units is scaled before each step, so that its
                       Euclidean norm is the square root of its number of outputs (Jordan 2024)
    others_momentum    momentum of the other parameters; None for the same as the units'
    others_decay       their weight decay, which is divided by the factor on their learning rate,
                       and added to the gradient before the momentum
    head_scale         factor on the learning rate of the last layer; None for `lr_scale`
    """

    USUAL_LR: ClassVar[float | None] = 0.03  # that of our recipe `fast`
    TAKES_LR_AS_TENSOR: ClassVar[bool] = True

    momentum: float = 0.9
    weight_decay: float = 0.03
    lr_scale: float = field(default=2.0, metadata={"stored_as": "share"})
    rounds: int = field(default=5, metadata={"added_later": True})
    normalise_weights: bool = field(default=False, metadata={"added_later": True})
    others_momentum: float | None = field(default=None, metadata={"added_later": True})
    others_decay: float = field(default=0.0, metadata={"added_later": True})
    head_scale: float | None = field(default=None, metadata={"added_later": True})

    def __post_init__(self) -> None:
        check_range(self.momentum, "momentum", 0, 1)
        check_range(self.weight_decay, "weight_decay", 0)
        check_range(self.lr_scale, "share", 0)
        check_range(self.rounds, "rounds", 1, MAX_ROUNDS + 1)
        check_range(self.others_decay, "others_decay", 0)
        if self.others_momentum is not None:
            check_range(self.others_momentum, "others_momentum", 0, 1)
        if self.head_scale is not None:
            check_range(self.head_scale, "head_scale", 0)

    @property
    def decay(self) -> DecayScope:  # type: ignore[override]
        return "units"

    @property
    def description(self) -> str:
        others = f", and {self.others_decay:g} for all others" if self.others_decay else ""
        return (
            f"Muon with momentum {self.momentum:g} and weight decay {self.weight_decay:g} "
            f"for the weights of the units{others}"
        )

    @property
    def states_per_parameter(self) -> int:
        return 1

    @property
    def lr_scale_outside_units(self) -> float:
        return self.lr_scale

    @property
    def lr_scale_of_head(self) -> float:
        return self.lr_scale if self.head_scale is None else self.head_scale

    @property
    def decay_outside_units(self) -> float:
        return self.others_decay
