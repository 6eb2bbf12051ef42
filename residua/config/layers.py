"""The layers of a plan: one operation each, with its shapes, parameters and multiply-adds."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple

from residua.config.attention import Attention
from residua.config.heads import Pooling, WeightStart
from residua.config.norm import BatchNorm
from residua.config.stages import StemStart

LayerOp = Literal[
    "weight",
    "bn",
    "relu",
    "silu",
    "scale",
    "attention",
    "flatten",
    "maxpool",
    "avgpool",
    "pad",
    "mean",
    "vlad",
    "pool",
]


class ActivationShape(NamedTuple):
    """Shape of an activation, without the batch; `size` is () in a fully connected net."""

    channels: int
    size: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.channels * prod(self.size)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation and its shapes.

    kernel, stride  kernel size and stride; an option-A shortcut has only a stride
    bias            whether a weight layer has a bias
    pad_before      number of zero channels that option A puts first; the other ones come last
    zero_init       whether the layer's weight starts at 0
    pooling         the pooling that the layer applies, in the head; None in all other layers
    groups          number of groups of a weight layer
    attention       the attention of an attention layer; None in all other layers
    norm            the settings of a BN layer
    start           how the initial weight of a weight layer is drawn
    stem_start      what sets a weight layer's weight from training images; None if nothing does
    """

    op: LayerOp
    input_shape: ActivationShape
    output_shape: ActivationShape
    kernel: int = 1
    stride: int = 1
    bias: bool = False
    pad_before: int = 0
    zero_init: bool = False
    pooling: Pooling | None = None
    groups: int = 1
    attention: Attention | None = None
    norm: BatchNorm = field(default=BatchNorm())
    start: WeightStart = "he"
    stem_start: StemStart | None = None

    @property
    def fan_in(self) -> int:
        """Number of inputs from which a weight layer computes each output."""
        positions = prod((self.kernel,) * len(self.output_shape.size))
        return self.input_shape.channels // self.groups * positions

    @property
    def parameters(self) -> int:
        if self.pooling is not None:
            return self.pooling.count_pooling_parameters(self.input_shape.channels)
        if self.attention is not None:
            shapes = self.attention.parameter_shapes(self.input_shape.channels)
            return sum(map(prod, shapes.values()))
        match self.op:
            case "weight":
                return (self.fan_in + self.bias) * self.output_shape.channels
            case "bn":
                return 2 * self.output_shape.channels
            case "scale":
                return 1
            case _:
                return 0

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds per image.

        Weight layers (as in He et al. 2015), attentions and the head's pooling are counted, other
        layers not.
        """
        if self.pooling is not None:
            return self.pooling.count_pooling_multiply_adds(*self.input_shape)
        if self.attention is not None:
            return self.attention.count_attention_multiply_adds(self.input_shape.channels)
        return self.fan_in * self.output_shape.numel if self.op == "weight" else 0


Layers = tuple[Layer, ...]
