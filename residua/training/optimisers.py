"""Build torch optimisers and their parameter groups from the optimiser settings of a recipe."""

from collections.abc import Mapping, Set
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from residua.config.optimisers import AdamW, Muon, Optimiser, RmsProp, Sgd
from residua.config.registry import implementation_of, register
from residua.net.build import ResidualNetwork
from residua.net.freeze import last_layer_parameters
from residua.training.muon import MuonOptimiser

ParameterGroup: TypeAlias = dict[str, Any]
"""A torch parameter group: "params", "weight_decay", "lr_scale" and "is_unit_weights"."""


def build_torch_optimiser(
    optimiser: Optimiser, groups: list[ParameterGroup]
) -> torch.optim.Optimizer:
    """Build the torch optimiser that the settings `optimiser` describe.

    Before each step, the caller must set each group's "lr" to the schedule's learning rate times
    the group's "lr_scale": a number, or on a GPU a scalar tensor, so that a CUDA graph can hold the
    step.
    """
    torch_optimiser: torch.optim.Optimizer = implementation_of(optimiser)(optimiser, groups)
    return torch_optimiser


def build_sgd(optimiser: Sgd, groups: list[ParameterGroup]) -> torch.optim.SGD:
    return torch.optim.SGD(
        groups, lr=0.0, momentum=optimiser.momentum, nesterov=optimiser.nesterov, fused=True
    )


def build_adamw(optimiser: AdamW, groups: list[ParameterGroup]) -> torch.optim.AdamW:
    betas = (optimiser.beta1, optimiser.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True, capturable=are_on_gpu(groups))


def build_rmsprop(optimiser: RmsProp, groups: list[ParameterGroup]) -> torch.optim.RMSprop:
    return torch.optim.RMSprop(
        groups,
        lr=0.0,
        alpha=optimiser.smoothing,
        momentum=optimiser.momentum,
        capturable=are_on_gpu(groups),
    )


def build_muon(optimiser: Muon, groups: list[ParameterGroup]) -> MuonOptimiser:
    if optimiser.others_momentum is not None:
        for group in groups:
            if not group["is_unit_weights"]:
                group["momentum"] = optimiser.others_momentum
    return MuonOptimiser(
        groups,
        optimiser.momentum,
        optimiser.rounds,
        normalise_weights=optimiser.normalise_weights,
    )


def are_on_gpu(groups: list[ParameterGroup]) -> bool:
    parameter: Tensor = groups[0]["params"][0]
    return parameter.is_cuda


register(Sgd, implementation=build_sgd)
register(AdamW, implementation=build_adamw)
register(RmsProp, implementation=build_rmsprop)
register(Muon, implementation=build_muon)


def make_parameter_groups(
    net: nn.Module,
    optimiser: Optimiser,
    lr_factors: Mapping[Tensor, float] | None = None,
    head_parameters: Set[Tensor] = frozenset(),
    stem_parameters: Set[Tensor] = frozenset(),
) -> list[ParameterGroup]:
    """Group the trainable parameters by weight decay and by learning rate.

    `optimiser.decay` says which parameters are decayed.  `lr_factors` multiplies the learning rate
    of each parameter.  `head_parameters`, those of the last layer, do not share a group with
    others, because the others may begin to be trained later.  `stem_parameters` have groups of
    their own, too, in which "is_stem" is True.
    """
    split_groups = []
    for group in group_by_decay(net, optimiser):
        keys = {
            p: ((lr_factors or {}).get(p, 1.0), p in head_parameters, p in stem_parameters)
            for p in group["params"]
        }
        for key in dict.fromkeys(keys.values()):
            params = [p for p in group["params"] if keys[p] == key]
            lr_scale = key[0] * group["lr_scale"]
            split_groups.append(group | {"params": params, "lr_scale": lr_scale, "is_stem": key[2]})
    return split_groups


def choose_lr_factors(
    net: nn.Module, body_lr: float = 1.0, layer_decay: float = 1.0
) -> dict[Tensor, float]:
    """Choose the factor on the learning rate of each parameter of `net`.

    The last layer has factor 1.  The last stage, and what the head holds below the last layer, has
    body_lr * layer_decay; each stage before it has `layer_decay` times as much, and so has the
    stem.  Of a module that is not a residual network, all parameters have factor 1.
    """
    if not isinstance(net, ResidualNetwork):
        return {}
    parts = [net.head[:-1], *[*net.stages.values()][::-1], net.stem]
    depths = [1, *range(1, len(net.stages) + 2)]
    return {
        parameter: body_lr * layer_decay**depth
        for part, depth in zip(parts, depths, strict=True)
        for parameter in part.parameters()
    }


def group_by_decay(net: nn.Module, optimiser: Optimiser) -> list[ParameterGroup]:
    """Split the trainable parameters into those with and those without weight decay."""
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    if optimiser.decay == "all":
        decayed = [p for _, p in named]
    elif optimiser.decay == "weights":  # neither biases, nor BN, nor scales
        decayed = [p for _, p in named if p.dim() > 1]
    else:
        decayed = [p for name, p in named if name.startswith("stages.") and p.dim() > 1]
    is_unit_weights = optimiser.decay == "units"
    decayed_ids = {id(p) for p in decayed}
    others = [p for _, p in named if id(p) not in decayed_ids]
    head: set[Tensor] = set()
    if isinstance(net, ResidualNetwork) and optimiser.lr_scale_of_head != (
        optimiser.lr_scale_outside_units
    ):
        head = last_layer_parameters(net)
    groups: list[ParameterGroup] = [
        {
            "params": decayed,
            "weight_decay": optimiser.weight_decay,
            "lr_scale": 1.0,
            "is_unit_weights": is_unit_weights,
        },
        *(
            {
                "params": [p for p in others if (p in head) == is_head],
                "weight_decay": optimiser.decay_outside_units / lr_scale if lr_scale else 0.0,
                "lr_scale": lr_scale,
                "is_unit_weights": False,
            }
            for is_head, lr_scale in (
                (False, optimiser.lr_scale_outside_units),
                (True, optimiser.lr_scale_of_head),
            )
        ),
    ]
    return [group for group in groups if group["params"]]


def trained_stem_parameters(net: nn.Module) -> set[Tensor]:
    """Return the trainable parameters of a residual network's stem; none of another module."""
    stem = net.stem if isinstance(net, ResidualNetwork) else nn.Sequential()
    return {parameter for parameter in stem.parameters() if parameter.requires_grad}


def collect_optimiser_state(net: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's tensors, keyed by the names `PARAMETER/STATE`."""
    return {
        f"{name}/{state_key}": value
        for name, parameter in net.named_parameters()
        for state_key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimiser_state(
    net: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Restore the tensors of `collect_optimiser_state`, each in the layout of its parameter."""
    parameters = dict(net.named_parameters())
    for key, value in state.items():
        name, _, state_key = key.rpartition("/")
        parameter = parameters[name]
        template = parameter if value.shape == parameter.shape else value
        restored = torch.empty_like(template, device=parameter.device).copy_(value)
        optimiser.state[parameter][state_key] = restored
