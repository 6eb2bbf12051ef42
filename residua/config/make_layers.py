"""Make the layers of a plan from strings of operations, with the shape of each."""

from dataclasses import replace

from residua.config.heads import WeightStart
from residua.config.layers import ActivationShape, Layer, Layers
from residua.config.network import LEAD_POOL
from residua.config.norm import BatchNorm
from residua.config.stages import StemStart
from residua.errors import UsageError


def make_layers(
    ops: str,
    input_shape: ActivationShape,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    bias: bool = False,
    groups: int = 1,
    *,
    norm: BatchNorm,
    start: WeightStart = "he",
    stem_start: StemStart | None = None,
) -> Layers:
    """Make the layers of `ops`, e.g. "bn relu weight".

    Only the weight layer and a max-pool change the shape.
    """
    layers: list[Layer] = []
    for op in ops.split():
        match op:
            case "weight":
                size = downsample_shape(input_shape, stride, kernel).size
                layer = Layer(op, input_shape, ActivationShape(width, size), kernel, stride, bias)
                layers.append(replace(layer, groups=groups, start=start, stem_start=stem_start))
                input_shape = layers[-1].output_shape
            case "maxpool":
                layers.append(make_maxpool(input_shape, LEAD_POOL))
                input_shape = layers[-1].output_shape
            case "bn":
                layers.append(Layer(op, input_shape, input_shape, norm=norm))
            case "relu" | "silu" | "scale":
                layers.append(Layer(op, input_shape, input_shape))
    return tuple(layers)


def make_maxpool(input_shape: ActivationShape, kernel: int = 3) -> Layer:
    """Make a max-pool of stride 2."""
    output_shape = downsample_shape(input_shape, 2, kernel)
    return Layer("maxpool", input_shape, output_shape, kernel, stride=2)


def make_avgpool(input_shape: ActivationShape, stride: int) -> Layer:
    """Make an average pool of size `stride`; at the lower and right edge, its window is cut off."""
    return Layer("avgpool", input_shape, downsample_shape(input_shape, stride, 1), stride, stride)


def downsample_shape(shape: ActivationShape, stride: int, kernel: int) -> ActivationShape:
    """Return the shape after a window of side `kernel`, padded by (kernel - 1) // 2 on every side.

    An odd kernel keeps every side at stride 1; an even one makes it a pixel shorter.  Raises
    UsageError if the window is larger than the image.
    """
    is_shorter = kernel % 2 == 0
    size = tuple((side - 1 - is_shorter) // stride + 1 for side in shape.size)
    if 0 in size:
        raise UsageError(
            f"the images are too small: a window of {kernel} x {kernel} pixels comes to a map of "
            f"{' x '.join(map(str, shape.size))}; give larger images, or fewer stages"
        )
    return ActivationShape(shape.channels, size)
