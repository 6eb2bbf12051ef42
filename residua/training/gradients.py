"""The memory of gradients, their exchange between ranks, and the limit of their norm."""

import torch
from torch import Tensor, nn

from residua.training.distributed import DataParallelGroup


class GradientMemory:
    """The gradients of `net`, and the results of a step that ranks exchange with them.

    One tensor holds `results` (result_count) and then the gradients of all parameters, so that
    ranks average all of it in one all-reduce, without a copy.  It is kept for the whole run:
    separate gradients would be allocated between activations and would fragment the heap when these
    are freed.

    With `backward_allocates`, the backward pass allocates separate gradients instead, as is best in
    a CUDA graph, in which they are each time at the same place.  Several ranks copy them to the one
    tensor; one process has no such tensor.
    """

    def __init__(
        self,
        net: nn.Module,
        group: DataParallelGroup,
        result_count: int = 0,
        *,
        backward_allocates: bool = False,
    ) -> None:
        self.group, self.backward_allocates = group, backward_allocates
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        if backward_allocates and group.world_size == 1:
            return
        sizes = [p.numel() for p in self.parameters]
        first = self.parameters[0]
        self.tensor = torch.zeros(result_count + sum(sizes), dtype=first.dtype, device=first.device)
        self.results, self.flat = self.tensor[:result_count], self.tensor[result_count:]
        self.views = [
            gradient.as_strided(p.shape, p.stride())
            for p, gradient in zip(self.parameters, torch.split(self.flat, sizes), strict=True)
        ]
        if not backward_allocates:
            for parameter, view in zip(self.parameters, self.views, strict=True):
                parameter.grad = view

    def clear(self) -> None:
        """Set the gradients to zero, or leave it to the backward pass to allocate others."""
        if not self.backward_allocates:
            self.flat.zero_()
            return
        for parameter in self.parameters:
            parameter.grad = None

    def list_all(self) -> list[Tensor]:
        """Return the gradients of the last batch: one flat tensor, or one of each parameter."""
        if not self.backward_allocates:
            return [self.flat]
        return [p.grad for p in self.parameters if p.grad is not None]

    def put_into_one_tensor(self, results: Tensor) -> None:
        """Copy `results`, and gradients that the backward pass has allocated, to the one tensor.

        A parameter that has no gradient keeps none.
        """
        self.results.copy_(results)
        if not self.backward_allocates:
            return
        pairs = zip(self.parameters, self.views, strict=True)
        with_gradient = [(p, view, p.grad) for p, view in pairs if p.grad is not None]
        torch._foreach_copy_(
            [view for _, view, _ in with_gradient], [gradient for _, _, gradient in with_gradient]
        )
        for parameter, view, _ in with_gradient:
            parameter.grad = view

    def average_over_ranks(self) -> None:
        """Replace results and gradients by their means over all ranks, in one all-reduce."""
        # Not DistributedDataParallel: it sums in another order at its first step than at all
        # later ones, so a resumed run would not be bit-identical to an uninterrupted one.
        self.group.all_reduce_sum(self.tensor).div_(self.group.world_size)


def clip_gradient_norm(gradients: list[Tensor], max_norm: float) -> None:
    """Multiply `gradients`, in place, so that their Euclidean norm is at most `max_norm`.

    The gradients are those of the whole batch, equal on all ranks, so that the factor is equal too.
    """
    norms = torch._foreach_norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    # the constant is that of PyTorch
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
