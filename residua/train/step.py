"""One step of training: forward, backward, update."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.spec.recipe import Sgd
from residua.train.machine import Machine


class Step:
    """Trains `net` by one batch a call.  It holds the optimiser's state; a learning rate is given to each call."""

    def __init__(self, net: nn.Module, optimiser: Sgd, machine: Machine) -> None:
        self.net, self.machine = net, machine
        self.optimiser = torch.optim.SGD(
            decay_groups(net, optimiser), lr=0.0, momentum=optimiser.momentum, nesterov=optimiser.nesterov
        )

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Mean loss (), and number of wrong answers () before the update; nothing waits for the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        with self.machine.autocast():
            scores = self.net(images)
        loss = F.cross_entropy(scores.float(), labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.detach(), (scores.argmax(1) != labels).sum()

    def state(self) -> dict[str, Tensor]:
        """The optimiser's state, by parameter name."""
        state = self.optimiser.state
        return {
            name: state[p]["momentum_buffer"]
            for name, p in self.net.named_parameters()
            if state.get(p, {}).get("momentum_buffer") is not None
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.net.named_parameters():
            if name in state:
                self.optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(state[name])


def decay_groups(net: nn.Module, optimiser: Sgd) -> list[dict[str, object]]:
    """Parameters with weight decay, and those without: BN's and biases, where only weights are decayed."""
    parameters = list(net.parameters())
    if optimiser.decay == "all":
        return [{"params": parameters, "weight_decay": optimiser.weight_decay}]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optimiser.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
