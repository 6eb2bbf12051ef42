"""Activations that are thrown away in the forward pass and computed again in the backward pass (Chen et al. 2016).

A segment of units keeps its input alone.  Losses, gradients, running statistics and dropout are the same bits as without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from residua.config.memory import RecomputeMode, recompute_segment_lengths
from residua.net.build import ResidualNetwork


def checkpoint_activations(net: ResidualNetwork, mode: RecomputeMode) -> None:
    """Cut the stages of `net` in place into segments that are computed again; names and parameters stay."""
    segment_lengths = recompute_segment_lengths(net.plan, mode)
    for (name, stage), lengths in zip(list(net.stages.items()), segment_lengths, strict=True):
        if lengths:
            net.stages[name] = CheckpointedStage(stage, lengths)


class CheckpointedStage(nn.Sequential):
    """A stage in segments of so many units each."""

    def __init__(self, stage: nn.Module, segment_lengths: tuple[int, ...]) -> None:
        super().__init__(*stage.children())
        self.segment_lengths = segment_lengths

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        units = iter(self)
        for length in self.segment_lengths:
            segment = nn.Sequential(*islice(units, length))
            x = RecomputedSegment.apply(segment, x, *segment.parameters())  # type: ignore[no-untyped-call]
        return x


class RecomputedSegment(torch.autograd.Function):
    """A segment of `x` (n, c, h, w), of which `x` alone is kept.

    Not `torch.utils.checkpoint`, which counts the tensors of both passes: in the second, a BN leaves its statistics alone.
    """

    @staticmethod
    def forward(ctx: Any, segment: nn.Sequential, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.segment, ctx.autocast, ctx.random = (
            segment,
            capture_autocast(x.device),
            get_default_generator(x.device).get_state(),
        )
        ctx.save_for_backward(x, *parameters)
        with ctx.autocast():
            y: Tensor = segment(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(ctx.needs_input_grad[1]), *parameters]
        differentiable = [tensor for tensor in inputs if tensor.requires_grad]
        with (
            torch.enable_grad(),
            ctx.autocast(),
            use_rng_state(x.device, ctx.random),
            frozen_running_stats(ctx.segment),
        ):
            y = ctx.segment(inputs[0])
        gradients = iter(torch.autograd.grad(y, differentiable, dy))
        return None, *(next(gradients) if tensor.requires_grad else None for tensor in inputs)


def capture_autocast(device: torch.device) -> "partial[torch.autocast]":
    """The mixed precision that is on here, without its memory of cast weights: a segment casts each once, a pass."""
    dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    return partial(torch.autocast, device.type, dtype, enabled, cache_enabled=False)


def get_default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[
            torch.cuda.current_device() if device.index is None else device.index
        ]
    return torch.default_generator


@contextmanager
def use_rng_state(device: torch.device, state: Tensor) -> Iterator[None]:
    """Random numbers from `state` on, with no trace of it."""
    rng = get_default_generator(device)
    saved_state = rng.get_state()
    rng.set_state(state)
    try:
        yield
    finally:
        rng.set_state(saved_state)


@contextmanager
def frozen_running_stats(module: nn.Module) -> Iterator[None]:
    """Every BN normalises as it does, and its running statistics stay; what it gives in training does not depend on them."""
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
