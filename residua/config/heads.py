"""How the last feature map becomes class scores: pooling, then a fully connected layer."""

from abc import abstractmethod
from dataclasses import dataclass
from math import isfinite, prod
from typing import Literal

from residua.config.registry import Part, register
from residua.errors import UsageError, unknown_name_error

PoolingOp = Literal["mean", "vlad", "pool"]
WeightStart = Literal["he", "dirac", "normal"]
"""How the initial weight of a layer is drawn: "he" from N(0, 2 / fan_in) (He et al. 2015b),
"normal" from N(0, 1); "dirac" is that of `Unit.start`.
"""


class Pooling(Part):
    """Base class of poolings, which turn the last feature map into the last layer's input.

    The implementation is a function `f(pooling, channels) -> nn.Module`; the module's forward takes
    (n, channels, *size) and returns (n, pooled_channels(channels)).
    """

    __slots__ = ()

    @property
    def op_name(self) -> PoolingOp:
        """The operation's name in plans and drawings."""
        return "pool"

    @property
    def last_layer_has_bias(self) -> bool:
        """Whether the last layer, which computes the class scores, has a bias."""
        return True

    @property
    def last_layer_start(self) -> WeightStart:
        """How the last layer's initial weight is drawn."""
        return "he"

    @abstractmethod
    def pooled_channels(self, channels: int) -> int:
        """Return the number of values per image after pooling."""

    def count_pooling_parameters(self, channels: int) -> int:
        """Return the number of parameters of the pooling, for `channels` input channels."""
        return 0

    def count_pooling_multiply_adds(self, channels: int, size: tuple[int, ...]) -> int:
        """Return the number of multiply-adds of the pooling per image."""
        return 0

    def count_saved_numbers(self, channels: int, size: tuple[int, ...]) -> int:
        """Return how many fp32 values are saved per image for the backward pass, input excluded."""
        return 0

    def saves_input(self) -> bool:
        """Return whether the backward pass reads the pooling's input."""
        return True


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Head(Pooling):
    """Global average pooling (`pool="mean"`) or NetVLAD (`pool="vlad"`).

    NetVLAD has `words` learned centres.  For each centre it sums the residuals of all positions,
    weighted by a softmax over the centres (Arandjelovic et al. 2016, Eq. 4).
    """

    pool: Literal["mean", "vlad"] = "mean"
    words: int = 16

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "vlad"):
            raise unknown_name_error("pooling", str(self.pool), ("mean", "vlad"))
        if self.words < 1:
            raise UsageError(f"VLAD with {self.words} words is invalid: give at least 1")

    @property
    def op_name(self) -> PoolingOp:
        return self.pool

    def pooled_channels(self, channels: int) -> int:
        return channels * (self.words if self.pool == "vlad" else 1)

    def count_pooling_parameters(self, channels: int) -> int:
        """Return the number of parameters of the pooling, for `channels` input channels.

        NetVLAD's parameters are its centres, and the weights and biases of the softmax.
        """
        return self.words * (2 * channels + 1) if self.pool == "vlad" else 0

    def count_pooling_multiply_adds(self, channels: int, size: tuple[int, ...]) -> int:
        """Return the number of multiply-adds of the pooling per image.

        NetVLAD takes two matrix products; average pooling counts as 0.
        """
        return 2 * self.words * channels * prod(size) if self.pool == "vlad" else 0

    def count_saved_numbers(self, channels: int, size: tuple[int, ...]) -> int:
        """Return how many fp32 values are saved per image for the backward pass, input excluded.

        NetVLAD saves the normalised features in two layouts, the softmax weights, and the residuals
        before and after normalisation.  It also saves the norms of the features and the residuals.
        """
        if self.pool != "vlad":
            return 0
        positions = prod(size)
        features = 2 * channels * positions + 2 * positions
        residuals = 2 * self.words * channels + 3 * self.words + 2
        return features + self.words * positions + residuals

    def saves_input(self) -> bool:
        return self.pool == "vlad"


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPooling(Pooling):
    """Global max-pooling, with a factor on its outputs.

    scale  the features are multiplied by scale / channels, and the last layer's initial weight is
           drawn from N(0, 1) (Jordan 2024, airbench); 0 for no factor and the usual weight
    bias   whether the last layer has a bias
    """

    scale: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        if not (isfinite(self.scale) and self.scale >= 0):
            raise UsageError(f"scale={self.scale} is invalid: give 0 or a larger finite number")

    @property
    def last_layer_has_bias(self) -> bool:
        return self.bias

    @property
    def last_layer_start(self) -> WeightStart:
        return "normal" if self.scale else "he"

    def pooled_channels(self, channels: int) -> int:
        return channels


register(MaxPooling, names={"max": MaxPooling(), "scaled-max": MaxPooling(scale=0.5, bias=False)})
register(Head, names={"mean": Head(), "vlad": Head(pool="vlad")})
