"""Turn tensors of other frameworks into the layout of PyTorch, and BNs into its epsilon."""

import torch
from torch import Tensor

BN_EPSILON = torch.nn.BatchNorm2d(1).eps


def with_epsilon(variance: Tensor, epsilon: float) -> Tensor:
    """Return the variance with which a BN of PyTorch's epsilon computes the same."""
    if abs(epsilon - BN_EPSILON) < 1e-9:  # 32-bit numbers in the file
        return variance
    return (variance.double() + (epsilon - BN_EPSILON)).to(variance.dtype)


def to_torch_layout(kernel: Tensor) -> Tensor:
    """Turn a kernel (height, width, inputs, outputs) or (inputs, outputs) into PyTorch's layout."""
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1).contiguous()
    return kernel.T.contiguous() if kernel.ndim == 2 else kernel
