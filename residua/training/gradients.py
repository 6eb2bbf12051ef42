"""The memory of gradients, and the limit of their norm."""

import torch
from torch import Tensor, nn


def allocate_flat_gradients(net: nn.Module) -> Tensor:
    """Allocate all gradients of `net` as views of one zero tensor, and return that tensor.

    The tensor is kept for the whole run.  Separate gradients would be allocated between activations
    and would fragment the heap when these are freed.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    flat_gradients = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
    for p, gradient in zip(parameters, torch.split(flat_gradients, sizes), strict=True):
        p.grad = gradient.as_strided(p.shape, p.stride())
    return flat_gradients


def clip_gradient_norm(gradients: list[Tensor], max_norm: float) -> None:
    """Multiply `gradients`, in place, so that their Euclidean norm is at most `max_norm`.

    The gradients are those of the whole batch, equal on all ranks, so that the factor is equal too.
    """
    norms = torch._foreach_norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    # the constant is that of PyTorch
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
