"""The launch configurations of the convolutions in Triton: a fixed function of the shapes.

Nothing is tuned while a net trains, because the order of the sums depends on the configuration.
"""

from dataclasses import dataclass, replace
from typing import Literal

Pass = Literal["forward", "input_gradient", "weight_gradient"]


@dataclass(frozen=True, slots=True)
class ConvShape:
    """The shape of a square convolution: images, input side lengths, channels, kernel, stride."""

    images: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int

    @property
    def out_height(self) -> int:
        return (self.height - 1) // self.stride + 1

    @property
    def out_width(self) -> int:
        return (self.width - 1) // self.stride + 1

    @property
    def out_rows(self) -> int:
        """The pixels of all output images."""
        return self.images * self.out_height * self.out_width


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is launched.

    A program computes `block_m` x `block_n` values and sums over `block_k` at a time.  `programs`
    is how many the weight gradient aims at, and `tiles` how many tiles a program of a convolution
    computes.  With `whole`, a program holds all rows of the kernel at once.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int = 4
    stages: int = 3
    programs: int = 264
    tiles: int = 1
    whole: bool = False


# measured on an H100 by benchmarks/kernels_conv.py: pass, in channels, out channels, kernel, stride
MEASURED: dict[tuple[Pass, int, int, int, int], Launch] = {}


def choose_launch(direction: Pass, shape: ConvShape) -> Launch:
    """Return the launch configuration of a pass: the measured one, or else one by rule."""
    key = (direction, shape.in_channels, shape.out_channels, shape.kernel, shape.stride)
    return MEASURED.get(key) or choose_launch_by_rule(direction, shape)


def choose_launch_by_rule(direction: Pass, shape: ConvShape) -> Launch:
    """Return a launch configuration that suits any shape."""
    if direction == "weight_gradient":
        return choose_weight_gradient_launch(shape)
    if direction == "forward":
        depth, width, rows = shape.in_channels, shape.out_channels, shape.out_rows
    else:
        depth, width, rows = shape.out_channels, shape.in_channels, shape.out_rows
    block_n = fit_block(width, largest=64)
    block_m = 128 if rows * -(-width // block_n) >= 128 * 264 else 64
    block_k = fit_block(depth, largest=64)
    whole = shape.kernel * shape.kernel * depth <= 144 and (
        direction == "forward" or shape.stride == 1
    )
    return Launch(block_m, block_n, block_k, whole=whole)


def choose_weight_gradient_launch(shape: ConvShape) -> Launch:
    block_n = fit_block(shape.out_channels, largest=64)
    launch = Launch(64, block_n, 64)
    if shape.kernel == 3 and shape.in_channels <= 16:
        launch = replace(launch, block_k=128, whole=True)
    return launch


def fit_block(channels: int, largest: int) -> int:
    """Return the largest power of 2, from 16 to `largest`, that divides `channels`, or else 16."""
    block = largest
    while block > 16 and channels % block:
        block //= 2
    return block
