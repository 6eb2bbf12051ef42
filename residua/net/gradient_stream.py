"""Compute weight gradients on a stream of their own, beside the rest of the backward pass.

Nothing in the backward pass needs them, and neither they nor the gradients of the activations fill
a GPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

current_gradient_stream: "ContextVar[WeightGradientStream | None]" = ContextVar(
    "current_gradient_stream", default=None
)
"""The stream for the weight gradients of the layers whose forward pass runs now, if any."""


class WeightGradientStream:
    """A CUDA stream for the weight gradients of the layers that run inside `attached`.

    `join` must be called after the backward pass, before anything reads the gradients, and the
    gradients must not be added to earlier ones.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.inputs_in_use: tuple[Tensor, ...] = ()
        self.uses: Counter[int] = Counter()  # of each weight, by its id

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Use the stream for the layers whose forward pass runs inside the context."""
        self.uses.clear()
        token = current_gradient_stream.set(self)
        try:
            yield
        finally:
            current_gradient_stream.reset(token)

    def compute(
        self, weight: Tensor, compute_gradient: Callable[[], Tensor], inputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Call `compute_gradient` on the stream, after what the current stream has done so far.

        `inputs` are what it reads; they are kept until the next call, so that their memory is not
        used for anything else meanwhile.  The gradients of a weight that is used several times are
        summed by autograd, so they are computed on the current stream.
        """
        if self.uses[id(weight)] != 1:
            return compute_gradient()
        self.join()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            gradient = compute_gradient()
        self.inputs_in_use = inputs
        return gradient

    def join(self) -> None:
        """Make the current stream wait for the weight gradients."""
        torch.cuda.current_stream().wait_stream(self.stream)
        self.inputs_in_use = ()
