"""Activation checkpointing: recompute activations in the backward pass (Chen et al. 2016).

Each stage is split into segments of consecutive units.  The forward pass saves only the inputs of
the segments.  Losses, gradients, running statistics and dropout masks are bit-identical to those
without checkpointing.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from residua.config.memory import RecomputeMode, recompute_segment_lengths
from residua.net.build import ResidualNetwork
from residua.net.joins import DropJoin


def checkpoint_activations(net: ResidualNetwork, mode: RecomputeMode) -> None:
    """Replace the stages of `net`, in place, by stages that recompute their activations.

    The keys of the state_dict and the parameter tensors stay the same.
    """
    segment_lengths = recompute_segment_lengths(net.plan, mode)
    for (name, stage), lengths in zip(list(net.stages.items()), segment_lengths, strict=True):
        if lengths:
            net.stages[name] = CheckpointedStage(stage, lengths)


class CheckpointedStage(nn.Sequential):
    """A stage whose units are grouped into recomputed segments of the given lengths."""

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
            inputs = (segment, x, *segment.parameters())
            x = RecomputedSegment.apply(*inputs)  # type: ignore[no-untyped-call]
        return x


class RecomputedSegment(torch.autograd.Function):
    """An autograd Function that applies the units of a segment to `x` (n, c, h, w).

    The activations are not saved, but recomputed from `x` in the backward pass.
    `torch.utils.checkpoint` is not used, because it requires both passes to save the same tensors.
    This fails here, since BN does not update its running statistics in the second pass.
    """

    @staticmethod
    def forward(ctx: Any, segment: nn.Sequential, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.segment, ctx.autocast = segment, capture_autocast(x.device)
        # a CUDA graph is captured without access to the state of the generator
        ctx.rng_state = (
            get_default_generator(x.device).get_state() if draws_randomly(segment) else None
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
            nullcontext() if ctx.rng_state is None else use_rng_state(x.device, ctx.rng_state),
            frozen_running_stats(ctx.segment),
        ):
            y = ctx.segment(inputs[0])
        gradients = iter(torch.autograd.grad(y, differentiable, dy))
        return None, *(next(gradients) if tensor.requires_grad else None for tensor in inputs)


def capture_autocast(device: torch.device) -> "partial[torch.autocast]":
    """Return a function that makes autocast contexts with the current dtype and on/off state.

    These contexts do not use the weight cache of autocast, which would keep all cast weights until
    the outer autocast ends.  Without the cache, each pass through a segment casts its weights anew.
    """
    dtype, enabled = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    return partial(torch.autocast, device.type, dtype, enabled, cache_enabled=False)


def draws_randomly(net: nn.Module) -> bool:
    """Return whether `net` may draw random numbers in training.

    Modules that are defined neither in PyTorch nor in this package are assumed to do so.
    """
    return any(
        isinstance(module, _DropoutNd)
        or (isinstance(module, DropJoin) and (module.shortcut_dropout or module.drop_path) > 0)
        or type(module).__module__.partition(".")[0] not in ("torch", "residua")
        for module in net.modules()
    )


def get_default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


@contextmanager
def use_rng_state(device: torch.device, state: Tensor) -> Iterator[None]:
    """Set the device's default generator to `state` within the context, and restore it after."""
    rng = get_default_generator(device)
    saved_state = rng.get_state()
    rng.set_state(state)
    try:
        yield
    finally:
        rng.set_state(saved_state)


@contextmanager
def frozen_running_stats(module: nn.Module) -> Iterator[None]:
    """Keep the BN layers of `module` from updating their running statistics within the context.

    Outputs in training mode do not change, since they depend only on the batch statistics.
    """
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
