"""Channel attention: factors from 0 to 1 by which a unit scales the channels of its branch."""

from abc import abstractmethod
from dataclasses import dataclass

from residua.config.registry import Part, register
from residua.errors import UsageError

MAX_REDUCTION = 1_024  # our choice


class Attention(Part):
    """Base class of channel attentions: the last operation of a branch, s(F) * F.

    The implementation is a function `f(attention, channels) -> nn.Module`; the module's forward
    takes the branch's output F, (n, channels, height, width), and returns a tensor of this shape.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def symbol(self) -> str:
        """The name in plans and drawings, e.g. "SE"."""

    @abstractmethod
    def parameter_shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the module's parameters, by their names in its state dict."""

    @abstractmethod
    def count_attention_multiply_adds(self, channels: int) -> int:
        """Return the number of multiply-adds per image, without the multiplication s * F."""

    @abstractmethod
    def count_saved_factors(self, channels: int) -> int:
        """Return how many values are saved per image for the backward pass, F excluded."""


@register
@dataclass(frozen=True, slots=True)
class SqueezeExcitation(Attention):
    """Squeeze-and-excitation: s = sigmoid(W2 relu(W1 mean(F) + b1) + b2) (Hu et al. 2018, Eq. 3).

    reduction  the hidden layer has 1/reduction of the channels; 16 in the paper
    divisor    the hidden layer's width is rounded to a multiple of this, halves up, and is at least
               this; 8 in timm, 1 elsewhere
    """

    reduction: int = 16
    divisor: int = 1

    def __post_init__(self) -> None:
        for name in ("reduction", "divisor"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_REDUCTION:
                raise UsageError(f"{name}={value} is invalid: give 1 to {MAX_REDUCTION:,}")

    @property
    def symbol(self) -> str:
        return "SE"

    def hidden_channels(self, channels: int) -> int:
        """Return the width of the hidden layer for `channels` channels."""
        multiples = (2 * channels + self.reduction * self.divisor) // (
            2 * self.reduction * self.divisor
        )
        if self.divisor == 1:  # without rounding to multiples, the fraction is dropped
            multiples = channels // self.reduction
        return max(multiples, 1) * self.divisor

    def parameter_shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the module's parameters, by their names in its state dict."""
        hidden = self.hidden_channels(channels)
        return {
            "fc1.weight": (hidden, channels, 1, 1),
            "fc1.bias": (hidden,),
            "fc2.weight": (channels, hidden, 1, 1),
            "fc2.bias": (channels,),
        }

    def count_attention_multiply_adds(self, channels: int) -> int:
        return 2 * channels * self.hidden_channels(channels)

    def count_saved_factors(self, channels: int) -> int:
        """Return how many values are saved: the means, the hidden layer and the factors."""
        return 2 * channels + self.hidden_channels(channels)


@register
@dataclass(frozen=True, slots=True)
class EfficientAttention(Attention):
    """Efficient channel attention: s = sigmoid(k * mean(F)) (Wang et al. 2020, Eq. 9).

    The kernel k slides along the channels, has no bias, and has an odd size: (log2(channels) + 1) /
    2 without its fraction, plus 1 if that is even, and at least 3.
    """

    @property
    def symbol(self) -> str:
        return "ECA"

    def kernel_size(self, channels: int) -> int:
        """Return the kernel's size for `channels` channels (Wang et al. 2020, Eq. 12)."""
        size = channels.bit_length() // 2  # (floor(log2(channels)) + 1) / 2
        return max(size + (size % 2 == 0), 3)

    def parameter_shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of the kernel, by its name in the module's state dict."""
        return {"conv.weight": (1, 1, self.kernel_size(channels))}

    def count_attention_multiply_adds(self, channels: int) -> int:
        return self.kernel_size(channels) * channels

    def count_saved_factors(self, channels: int) -> int:
        """Return how many values are saved: the means and the factors."""
        return 2 * channels


# timm rounds to multiples of 8, which differs from the paper only below 128 channels
register(
    SqueezeExcitation,
    names={
        "se": SqueezeExcitation(),
        "se-timm": SqueezeExcitation(divisor=8),
    },
)
register(EfficientAttention, names={"eca": EfficientAttention()})
