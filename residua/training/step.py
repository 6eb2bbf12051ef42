"""One step of training: forward, backward, update."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config import recipe
from residua.config.recipe import AdamW, Optimiser, RmsProp, Sgd
from residua.data.counter_rng import random_bits_from_keys
from residua.net.freeze import last_layer_parameters
from residua.training.cuda_graph import CudaGraphedCallable
from residua.training.distributed import local_bn_splits
from residua.training.machine import Machine
from residua.training.muon import MuonOptimiser


class TrainingStep:
    """Trains `net` by one batch a call.  It holds the optimiser's state; a learning rate is given to each call.

    Of a batch in `parts` each has BN statistics of its own; gradients and running statistics are averaged over all of them.
    """

    def __init__(
        self,
        net: nn.Module,
        optimiser: Optimiser,
        machine: Machine,
        bn_splits: int = 1,
        label_smoothing: float = 0.0,
        body_lr_scale: float = 1.0,
    ) -> None:
        self.net, self.machine, self.bn_splits, self.label_smoothing = (
            net,
            machine,
            bn_splits,
            label_smoothing,
        )
        machine.group.broadcast_weights(net)
        self.split_buffers = (
            list(net.buffers()) if bn_splits > 1 else []
        )  # what parts change apart from each other
        self.optimiser = build_torch_optimiser(
            optimiser,
            with_body_lr_scale(
                make_parameter_groups(net, optimiser), last_layer_parameters(net), body_lr_scale
            ),
        )
        self.flat_gradients = flatten_gradients(net)
        self.is_undivided = bn_splits * machine.group.world_size == 1
        self.run_undivided = (
            CudaGraphedCallable(self.forward_backward)
            if self.is_undivided and machine.can_use_cuda_graph(net)
            else self.forward_backward
        )

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Mean loss (), and number of wrong answers () before the update; nothing waits for the device.

        Labels are (n,), or (n, classes): each class's share, of which the largest is right.
        Both are of the whole batch, of which `images` and `labels` are this process's share.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["rate"]
        self.flat_gradients.zero_()
        loss, wrong = (
            self.run_undivided(images, labels)
            if self.is_undivided
            else self.accumulate_over_splits(images, labels)
        )
        self.optimiser.step()
        return loss, wrong

    def forward_backward(
        self, images: Tensor, labels: Tensor, loss_divisor: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Mean loss () and number of wrong answers (); adds the gradient of that loss, divided by `parts`."""
        with self.machine.autocast():
            logits = self.net(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        (loss / loss_divisor).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), (
            logits.argmax(1) != (labels if labels.dim() == 1 else labels.argmax(1))
        ).sum()

    def accumulate_over_splits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same over the parts of all processes; each starts from the running statistics of before, which end in their mean."""
        group, local_splits = (
            self.machine.group,
            local_bn_splits(self.bn_splits, self.machine.group),
        )
        initial_values, float_buffers = (
            [b.clone() for b in self.split_buffers],
            [b for b in self.split_buffers if b.is_floating_point()],
        )
        seed = int(torch.randint(2**62, ())) if self.bn_splits > 1 else 0
        split_results = []
        for split, x, y in zip(
            local_splits,
            images.chunk(len(local_splits)),
            labels.chunk(len(local_splits)),
            strict=True,
        ):
            if self.bn_splits > 1:
                torch.manual_seed(
                    int(random_bits_from_keys(seed, split))
                )  # for dropout: a function of the step's seed and of the part
            for buffer, value in zip(self.split_buffers, initial_values, strict=True):
                buffer.copy_(value)
            loss, wrong = self.forward_backward(x, y, len(local_splits))
            split_results.append(
                torch.cat(
                    [
                        torch.stack([loss, wrong.to(loss.dtype)]),
                        *[b.flatten() for b in float_buffers],
                    ]
                )
            )
        means = torch.stack(split_results).mean(0)
        group.average_in_place([means, self.flat_gradients])
        for buffer, mean in zip(
            float_buffers, torch.split(means[2:], [b.numel() for b in float_buffers]), strict=True
        ):
            buffer.copy_(mean.view_as(buffer))
        return means[0], (means[1] * len(local_splits) * group.world_size).round().long()

    def optimiser_state(self) -> dict[str, Tensor]:
        """The optimiser's state: momentum and the like, by `parameter/what`."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.net.named_parameters()
            for key, value in self.optimiser.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        parameters = dict(self.net.named_parameters())
        for key, value in state.items():
            name, _, state_key = key.rpartition("/")
            parameter = parameters[name]
            same_layout = (
                torch.empty_like(parameter)
                if value.shape == parameter.shape
                else torch.empty_like(value)
            )
            self.optimiser.state[parameter][state_key] = same_layout.copy_(value)


def flatten_gradients(net: nn.Module) -> Tensor:
    """All gradients of `net`, in one tensor that stays: among activations that come and go each would leave a gap in the heap."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    gradients = torch.zeros(
        sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    for p, gradient in zip(
        parameters, torch.split(gradients, [p.numel() for p in parameters]), strict=True
    ):
        p.grad = gradient.as_strided(p.shape, p.stride())
    return gradients


def with_body_lr_scale(
    groups: list[dict[str, Any]], head_parameters: set[Tensor], body_lr_scale: float
) -> list[dict[str, Any]]:
    """The same parameters, each group with the `rate` it is trained at: all below the head at that share of the whole."""
    if body_lr_scale == 1:
        return [group | {"rate": 1.0} for group in groups]
    split_groups = [
        group
        | {
            "params": [p for p in group["params"] if (p in head_parameters) == is_head],
            "rate": lr_scale,
        }
        for group in groups
        for is_head, lr_scale in ((False, body_lr_scale), (True, 1.0))
    ]
    return [group for group in split_groups if group["params"]]


def build_torch_optimiser(
    optimiser: Optimiser, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    match optimiser:
        case Sgd():
            return torch.optim.SGD(
                groups, lr=0.0, momentum=optimiser.momentum, nesterov=optimiser.nesterov, fused=True
            )
        case AdamW():
            return torch.optim.AdamW(
                groups, lr=0.0, betas=(optimiser.beta1, optimiser.beta2), fused=True
            )
        case RmsProp():
            return torch.optim.RMSprop(
                groups, lr=0.0, alpha=optimiser.smoothing, momentum=optimiser.momentum
            )
        case recipe.Muon():
            return MuonOptimiser(groups, optimiser.momentum)


def make_parameter_groups(net: nn.Module, optimiser: Optimiser) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without: BN's, biases and scales, where only weights are decayed.

    For Muon, the weights of the units, and all else.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    if isinstance(optimiser, recipe.Muon):
        unit_weights = [
            p
            for name, p in net.named_parameters()
            if name.startswith("stages.") and p.dim() > 1 and p.requires_grad
        ]
        others = [p for p in parameters if all(p is not h for h in unit_weights)]
        return [
            {"params": unit_weights, "weight_decay": optimiser.weight_decay, "orthogonal": True},
            {"params": others, "share": optimiser.lr_scale},
        ]
    if optimiser.decay == "all":
        return [{"params": parameters, "weight_decay": optimiser.weight_decay}]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optimiser.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
