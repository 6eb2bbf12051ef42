"""The launch configurations of the convolutions in Triton: a fixed function of the shapes.

Nothing is tuned while a net trains, because the order of the sums depends on the configuration.
"""

from dataclasses import dataclass
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


# Measured on an H100 by benchmarks/kernels_conv.py: for pass, in channels, out channels, kernel and
# stride, the output pixels of the shape that was measured, and its fastest launch.
MEASURED: dict[tuple[Pass, int, int, int, int], tuple[int, Launch]] = {
    ("forward", 16, 16, 3, 1): (131072, Launch(64, 16, 16, tiles=8, whole=True)),
    ("input_gradient", 16, 16, 3, 1): (131072, Launch(64, 16, 16, tiles=8, whole=True)),
    ("weight_gradient", 16, 16, 3, 1): (131072, Launch(64, 16, 64, whole=True)),
    ("forward", 32, 32, 3, 1): (32768, Launch(256, 32, 32, warps=8, stages=2, whole=True)),
    ("input_gradient", 32, 32, 3, 1): (32768, Launch(256, 32, 32, warps=8, stages=2, whole=True)),
    ("weight_gradient", 32, 32, 3, 1): (32768, Launch(128, 32, 64)),
    ("forward", 64, 64, 3, 1): (8192, Launch(64, 64, 64, stages=2, whole=True)),
    ("input_gradient", 64, 64, 3, 1): (8192, Launch(128, 64, 64, whole=True)),
    ("weight_gradient", 64, 64, 3, 1): (8192, Launch(64, 64, 64, programs=132)),
    ("forward", 16, 32, 3, 2): (32768, Launch(64, 32, 16, stages=2, whole=True)),
    ("input_gradient", 16, 32, 3, 2): (32768, Launch(256, 16, 32, warps=8)),
    ("weight_gradient", 16, 32, 3, 2): (32768, Launch(64, 32, 64)),
    ("forward", 32, 64, 3, 2): (8192, Launch(64, 64, 32, whole=True)),
    ("input_gradient", 32, 64, 3, 2): (8192, Launch(128, 32, 64, stages=4)),
    ("weight_gradient", 32, 64, 3, 2): (8192, Launch(64, 64, 64)),
    ("forward", 3, 16, 3, 1): (131072, Launch(128, 16, 16, whole=True)),
    ("weight_gradient", 3, 16, 3, 1): (131072, Launch(16, 16, 128, stages=2, programs=528)),
    ("forward", 64, 16, 1, 1): (131072, Launch(64, 16, 64, stages=4)),
    ("input_gradient", 64, 16, 1, 1): (131072, Launch(64, 64, 16, tiles=8, whole=True)),
    ("weight_gradient", 64, 16, 1, 1): (131072, Launch(64, 16, 128)),
    ("forward", 16, 64, 1, 1): (131072, Launch(128, 64, 16, tiles=8, whole=True)),
    ("input_gradient", 16, 64, 1, 1): (131072, Launch(64, 16, 64, stages=4)),
    ("weight_gradient", 16, 64, 1, 1): (131072, Launch(64, 64, 64)),
    ("forward", 256, 64, 1, 1): (8192, Launch(64, 32, 64, stages=4)),
    ("input_gradient", 256, 64, 1, 1): (8192, Launch(64, 64, 64, tiles=2, whole=True)),
    ("weight_gradient", 256, 64, 1, 1): (8192, Launch(64, 64, 64, programs=132)),
    ("forward", 64, 256, 1, 1): (8192, Launch(64, 64, 64, tiles=2, whole=True)),
    ("input_gradient", 64, 256, 1, 1): (8192, Launch(64, 64, 64, stages=2, whole=True)),
    ("weight_gradient", 64, 256, 1, 1): (8192, Launch(64, 64, 64, programs=132)),
    ("forward", 32, 128, 1, 1): (32768, Launch(64, 64, 32, tiles=4, whole=True)),
    ("input_gradient", 32, 128, 1, 1): (32768, Launch(128, 32, 64, tiles=2, whole=True)),
    ("weight_gradient", 32, 128, 1, 1): (32768, Launch(64, 64, 64)),
    ("forward", 128, 32, 1, 1): (32768, Launch(128, 32, 64, tiles=2, whole=True)),
    ("input_gradient", 128, 32, 1, 1): (32768, Launch(64, 64, 32, tiles=4, whole=True)),
    ("weight_gradient", 128, 32, 1, 1): (32768, Launch(64, 32, 64)),
}


def choose_launch(direction: Pass, shape: ConvShape) -> Launch:
    """Return the launch configuration of a pass: the measured one, or else one by rule.

    A measured one holds for at least half as many pixels.  Of fewer, its programs would be too few.
    """
    key = (direction, shape.in_channels, shape.out_channels, shape.kernel, shape.stride)
    rows, launch = MEASURED.get(key, (0, None))
    if launch is None or 2 * shape.out_rows < rows:
        return choose_launch_by_rule(direction, shape)
    return launch


def choose_launch_by_rule(direction: Pass, shape: ConvShape) -> Launch:
    """Return a launch configuration that suits any shape.

    Few channels leave room for all the weights of a kernel, which a program then uses for several
    tiles, so that there are two programs for each of an H100's 132 multiprocessors.
    """
    if direction == "weight_gradient":
        return choose_weight_gradient_launch(shape)
    depth, width = shape.in_channels, shape.out_channels
    if direction == "input_gradient":
        depth, width = width, depth
    block_n, block_k = fit_block(width, 64), fit_block(depth, 64)
    is_spread = direction == "input_gradient" and shape.stride == 2
    if shape.kernel * shape.kernel * depth > 288 or is_spread:
        return choose_large_block(shape.out_rows, width, block_k)
    block_m = 128 if depth <= 16 else 64
    tiles = shape.out_rows // block_m * -(-width // block_n) // 256
    return Launch(block_m, block_n, block_k, stages=2, tiles=max(1, min(8, tiles)), whole=True)


def choose_large_block(rows: int, width: int, block_k: int) -> Launch:
    """Return the launch with the largest block that leaves work for the whole GPU."""
    for block_m, block_n, warps in ((128, 128, 8), (128, 64, 4), (128, 32, 4), (64, 32, 4)):
        fits = fit_block(width, block_n) == block_n
        if fits and -(-rows // block_m) * -(-width // block_n) >= 264:
            return Launch(block_m, block_n, block_k, warps, stages=3 if block_n == 128 else 4)
    return Launch(64, fit_block(width, 32), block_k, stages=4)


def choose_weight_gradient_launch(shape: ConvShape) -> Launch:
    if min(shape.in_channels, shape.out_channels) >= 128:
        return Launch(128, fit_block(shape.out_channels, 128), 64, warps=8)
    block_m = 64 if shape.kernel * shape.in_channels > 16 else 16
    whole = shape.kernel == 3 and shape.in_channels <= 32
    return Launch(block_m, fit_block(shape.out_channels, 64), 64, whole=whole)


def fit_block(channels: int, largest: int) -> int:
    """Return the largest power of 2, from 16 to `largest`, whose multiple is close to `channels`.

    At most a quarter of the blocks' columns is unused, if a block of 16 does not leave more.
    """
    block = largest
    while block > 16 and -(-channels // block) * block * 3 > channels * 4:
        block //= 2
    return block
