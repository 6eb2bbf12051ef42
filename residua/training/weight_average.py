"""A running average of a network's weights and BN statistics over the training steps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of the weights and buffers of `net` (Polyak & Juditsky 1992).

    Step t, counted from 0, moves the average by 1 - d towards the weights, where d is
    min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage has it.  So the first
    steps do not keep the initial weights.  Integer buffers, such as counts, are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        names = {id(tensor): name for name, tensor in net.state_dict(keep_vars=True).items()}
        self.weights = {  # a tensor that the network holds under several names occurs once
            name: tensor
            for name, tensor in net.state_dict(keep_vars=True).items()
            if names[id(tensor)] == name
        }
        self.tensors = {name: tensor.detach().clone() for name, tensor in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step`, counted from 0, to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        for name, tensor in self.weights.items():
            if tensor.is_floating_point():
                averages.append(self.tensors[name])
                weights.append(tensor)
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the average from a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    def swap_with_weights(self) -> None:
        """Exchange the average and the weights of the network; a second call undoes it exactly.

        The tensors themselves stay where they are in memory, as a captured CUDA graph needs.
        """
        for name, tensor in self.weights.items():
            tensor.data, self.tensors[name] = self.tensors[name], tensor.data

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged weights within the context."""
        self.swap_with_weights()
        try:
            yield
        finally:
            self.swap_with_weights()
