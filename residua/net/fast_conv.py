"""Convolutions that run as Triton kernels on a GPU where these support them, or else as PyTorch's.

On small channel numbers, deterministic bf16 convolutions of cuDNN take 1.1 to 7 times as long
(benchmarks/kernels_h100_202611.md), and weights and their gradients are converted at every step.
"""

import torch
from torch import Tensor, nn

from residua.net.batch_moments import BatchMoments
from residua.net.fused_bn_kernels import explain_missing_kernels

CHANNEL_LIMITS = {1: 256, 3: 64}  # by kernel size; at 3x3, cuDNN is faster from 128 on
# Every program of the kernel of BN reads all parts of the moments; 512 parts would be few enough.
# Until moments are measured on a GPU, convolutions compute none.
MAX_MOMENT_PARTS = 0
MEASURED_CAPABILITY = (9, 0)  # H100 and H200


class TritonConv2d(nn.Conv2d):
    """An nn.Conv2d that uses Triton kernels for channels-last bf16 on a GPU.

    Weights may be fp32: the kernels round them, and write fp32 gradients.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not can_run_in_triton(self, x):
            return super().forward(x)
        from residua.net.triton_conv import TritonConvolution

        output: Tensor = TritonConvolution.apply(  # type: ignore[no-untyped-call]
            x.to(torch.bfloat16), self.weight, self.stride[0]
        )
        return output

    def forward_with_moments(self, x: Tensor) -> tuple[Tensor, BatchMoments | None]:
        """Return the output and its moments, for a BN that follows; None if it computes none."""
        if not can_run_in_triton(self, x):
            return super().forward(x), None
        from residua.net.triton_conv import (
            TritonConvolution,
            count_rows_per_program,
            describe_shape,
        )

        shape = describe_shape(x.shape, self.weight, self.stride[0])
        rows_per_part = count_rows_per_program(shape)
        if shape.out_rows > MAX_MOMENT_PARTS * rows_per_part:
            return self(x), None
        output, parts = TritonConvolution.apply(  # type: ignore[no-untyped-call]
            x.to(torch.bfloat16), self.weight, self.stride[0], True
        )
        return output, BatchMoments(parts, rows_per_part)


def install_triton_convolutions(net: nn.Module, device: torch.device) -> None:
    """Turn each nn.Conv2d of `net` that Triton kernels support into a `TritonConv2d`.

    It does nothing unless `device` is a GPU that the kernels run on.  Parameters and their names
    stay the same; in another layout or precision, such a module does what it did before.
    """
    if explain_missing_convolutions(device):
        return
    for module in net.modules():
        if type(module) is nn.Conv2d and has_supported_shape(module):
            module.__class__ = TritonConv2d


def describe_convolutions(device: torch.device) -> str:
    """Name the convolutions that `install_triton_convolutions` chooses, or say why none are."""
    reason = explain_missing_convolutions(device)
    if device.type != "cuda":
        return "PyTorch's"
    return f"PyTorch's: {reason}" if reason else "in Triton up to 64 channels (1x1: 256)"


def explain_missing_convolutions(device: torch.device) -> str | None:
    """Return the reason why convolutions in Triton cannot be used on a device; None if they can."""
    if device.type != "cuda":
        return f"there are none of Triton's for the device {device.type}"
    if torch.cuda.get_device_capability(device) != MEASURED_CAPABILITY:
        return "Triton's were measured on Hopper GPUs only"  # others have less shared memory
    return explain_missing_kernels(device)


def has_supported_shape(conv: nn.Conv2d) -> bool:
    """Return whether Triton kernels support the shape of a convolution's kernel."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    return (
        kernel in (1, 3)
        and conv.kernel_size == (kernel, kernel)
        and conv.padding in ((kernel // 2, kernel // 2), "same" if stride == 1 else None)
        and stride in (1, 2)
        and conv.stride == (stride, stride)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and conv.out_channels % 16 == 0
        and (conv.in_channels == 3 or conv.in_channels % 16 == 0)
        and max(conv.in_channels, conv.out_channels) <= CHANNEL_LIMITS[kernel]
    )


def can_run_in_triton(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether an input's device, precision and layout suit the Triton kernels."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and explain_missing_convolutions(x.device) is None
        and (x.dtype == torch.bfloat16 or x.dtype == torch.float32)
        and computes_in_bf16(conv, x)
        and x.dim() == 4
        and 0 < x.numel() < 2**31
        and x.numel() // x.shape[1] * conv.out_channels < 2**31
        and x.is_contiguous(memory_format=torch.channels_last)
        and conv.weight.is_contiguous(memory_format=torch.channels_last)
    )


def computes_in_bf16(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether PyTorch would compute this convolution in bf16."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type) == torch.bfloat16
    return x.dtype == conv.weight.dtype == torch.bfloat16
