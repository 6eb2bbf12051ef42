"""One step of training: forward, backward, update."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.data.counter import bits
from residua.net.freeze import last_of
from residua.spec import recipe
from residua.spec.recipe import AdamW, Optimiser, RmsProp, Sgd
from residua.train.graph import Graphed
from residua.train.machine import Machine
from residua.train.muon import Muon
from residua.train.parallel import parts_here


class Step:
    """Trains `net` by one batch a call.  It holds the optimiser's state; a learning rate is given to each call.

    Of a batch in `parts` each has BN statistics of its own; gradients and running statistics are averaged over all of them.
    """

    def __init__(
        self, net: nn.Module, optimiser: Optimiser, machine: Machine, parts: int = 1, smoothing: float = 0.0, body_lr: float = 1.0
    ) -> None:
        self.net, self.machine, self.parts, self.smoothing = net, machine, parts, smoothing
        machine.group.begin_alike(net)
        self.buffers = list(net.buffers()) if parts > 1 else []  # what parts change apart from each other
        self.optimiser = torch_optimiser(optimiser, slowed(decay_groups(net, optimiser), last_of(net), body_lr))
        self.gradients = in_one(net)
        self.alone = parts * machine.group.size == 1
        self.whole = Graphed(self.backward) if self.alone and machine.graphs(net) else self.backward

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Mean loss (), and number of wrong answers () before the update; nothing waits for the device.

        Labels are (n,), or (n, classes): each class's share, of which the largest is right.
        Both are of the whole batch, of which `images` and `labels` are this process's share.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["rate"]
        self.gradients.zero_()
        loss, wrong = self.whole(images, labels) if self.alone else self.in_parts(images, labels)
        self.optimiser.step()
        return loss, wrong

    def backward(self, images: Tensor, labels: Tensor, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Mean loss () and number of wrong answers (); adds the gradient of that loss, divided by `parts`."""
        with self.machine.autocast():
            scores = self.net(images)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=self.smoothing)
        (loss / parts).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (scores.argmax(1) != (labels if labels.dim() == 1 else labels.argmax(1))).sum()

    def in_parts(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same over the parts of all processes; each starts from the running statistics of before, which end in their mean."""
        group, here = self.machine.group, parts_here(self.parts, self.machine.group)
        before, averaged = [b.clone() for b in self.buffers], [b for b in self.buffers if b.is_floating_point()]
        seed = int(torch.randint(2**62, ())) if self.parts > 1 else 0
        seen = []
        for part, x, y in zip(here, images.chunk(len(here)), labels.chunk(len(here)), strict=True):
            if self.parts > 1:
                torch.manual_seed(int(bits(seed, part)))  # for dropout: a function of the step's seed and of the part
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
            loss, wrong = self.backward(x, y, len(here))
            seen.append(torch.cat([torch.stack([loss, wrong.to(loss.dtype)]), *[b.flatten() for b in averaged]]))
        means = torch.stack(seen).mean(0)
        group.average([means, self.gradients])
        for buffer, mean in zip(averaged, torch.split(means[2:], [b.numel() for b in averaged]), strict=True):
            buffer.copy_(mean.view_as(buffer))
        return means[0], (means[1] * len(here) * group.size).round().long()

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


def in_one(net: nn.Module) -> Tensor:
    """All gradients of `net`, in one tensor that stays: among activations that come and go each would leave a gap in the heap."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for p, part in zip(parameters, torch.split(gradients, [p.numel() for p in parameters]), strict=True):
        p.grad = part.as_strided(p.shape, p.stride())
    return gradients


def slowed(groups: list[dict[str, Any]], head: set[Tensor], share: float) -> list[dict[str, Any]]:
    """The same parameters, each group with the `rate` it is trained at: all below the head at that share of the whole."""
    if share == 1:
        return [group | {"rate": 1.0} for group in groups]
    split = [
        group | {"params": [p for p in group["params"] if (p in head) == is_head], "rate": rate}
        for group in groups
        for is_head, rate in ((False, share), (True, 1.0))
    ]
    return [group for group in split if group["params"]]


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
    parameters = [p for p in net.parameters() if p.requires_grad]
    if isinstance(optimiser, recipe.Muon):
        hidden = [p for name, p in net.named_parameters() if name.startswith("stages.") and p.dim() > 1 and p.requires_grad]
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
