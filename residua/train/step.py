"""One step of training: forward, backward, update."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.spec import recipe
from residua.spec.recipe import AdamW, Optimiser, RmsProp, Sgd
from residua.train.machine import Machine
from residua.train.muon import Muon


class Step:
    """Trains `net` by one batch a call.  It holds the optimiser's state; a learning rate is given to each call."""

    def __init__(self, net: nn.Module, optimiser: Optimiser, machine: Machine) -> None:
        self.net, self.machine = net, machine
        self.optimiser = torch_optimiser(optimiser, decay_groups(net, optimiser))

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
        """The optimiser's state: momentum and the like, by `parameter/what`."""
        return {
            f"{name}/{what}": value
            for name, parameter in self.net.named_parameters()
            for what, value in self.optimiser.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        parameters = dict(self.net.named_parameters())
        for key, value in state.items():
            name, _, what = key.rpartition("/")
            parameter = parameters[name]
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            self.optimiser.state[parameter][what] = like.copy_(value)


def torch_optimiser(optimiser: Optimiser, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    match optimiser:
        case Sgd():
            return torch.optim.SGD(groups, lr=0.0, momentum=optimiser.momentum, nesterov=optimiser.nesterov, fused=True)
        case AdamW():
            return torch.optim.AdamW(groups, lr=0.0, betas=(optimiser.beta1, optimiser.beta2), fused=True)
        case RmsProp():
            return torch.optim.RMSprop(groups, lr=0.0, alpha=optimiser.smoothing, momentum=optimiser.momentum)
        case recipe.Muon():
            return Muon(groups, optimiser.momentum)


def decay_groups(net: nn.Module, optimiser: Optimiser) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without: BN's, biases and scales, where only weights are decayed.

    For Muon, the weights of the units, and all else.
    """
    parameters = list(net.parameters())
    if isinstance(optimiser, recipe.Muon):
        hidden = [p for name, p in net.named_parameters() if name.startswith("stages.") and p.dim() > 1]
        others = [p for p in parameters if all(p is not h for h in hidden)]
        return [
            {"params": hidden, "weight_decay": optimiser.weight_decay, "orthogonal": True},
            {"params": others, "share": optimiser.share},
        ]
    if optimiser.decay == "all":
        return [{"params": parameters, "weight_decay": optimiser.weight_decay}]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optimiser.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
