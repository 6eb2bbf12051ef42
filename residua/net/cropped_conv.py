"""Convolutions whose gradients are right on a CPU in bf16 where the kernel exceeds its input.

PyTorch 2.13 does not set the gradients of rows and columns of a kernel that see padding alone, so
that they have whatever values were in memory.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CroppedConv2d(nn.Conv2d):
    """An nn.Conv2d that leaves out the rows and columns of its kernel that see padding alone.

    Kernel, stride and padding are square, and the padding is half of an odd kernel, as
    `crop_kernels` makes sure.  The outputs are those of nn.Conv2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        size, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        spans, margins = [], list[int]()
        for side in x.shape[:1:-1]:  # width and height, in the order that F.pad takes
            last_start = (side + 2 * padding - size) // stride * stride
            first = max(0, padding - last_start)
            end = min(size, padding + side)
            after = max(0, last_start + end - padding - side)
            spans.append(slice(first, end))
            margins += [padding - first, after]
        columns, rows = spans
        if columns == rows == slice(0, size):
            return super().forward(x)
        weight = self.weight[:, :, rows, columns]
        return F.conv2d(F.pad(x, margins), weight, self.bias, stride, groups=self.groups)


def crop_kernels(net: nn.Module) -> None:
    """Turn each nn.Conv2d of `net` whose kernel may exceed its input into a `CroppedConv2d`.

    Parameters, their names and the outputs stay the same.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and is_square_with_half_padding(module):
            module.__class__ = CroppedConv2d


def is_square_with_half_padding(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is square, and padded with zeros by half of an odd kernel."""
    size = conv.kernel_size[0]
    return (
        size > 1
        and size % 2 == 1
        and conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )
