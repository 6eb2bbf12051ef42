"""Trace a forward pass of any module and record its residual additions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from residua.analysis.unit_signals import ForwardStats, compute_forward_stats

ADD_FUNCTIONS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
WEIGHT_FUNCTIONS = {"conv1d", "conv2d", "conv3d", "linear"}
RELU_FUNCTIONS = {"relu", "relu_"}


@dataclass
class TracedAddition:
    """A residual addition, and the ReLU after it if one follows."""

    module_path: tuple[str, ...]  # names of the modules around the addition, outermost first
    unit_output: Tensor  # the sum, or the output of the ReLU after it
    stats: ForwardStats


class AdditionTracer(TorchFunctionMode):
    """Records every residual addition of a forward pass in `additions`.

    A residual addition is the sum of two different tensors of the same shape, both computed from
    the images.  The operand that has passed through fewer weight layers is the shortcut.
    In-place additions and the ReLUs after them are run out of place, so that no sum is overwritten.

    The class is a `TorchFunctionMode`.  Module hooks would miss additions that are not modules,
    such as `x + y`, and symbolic tracing would fail on data-dependent code.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        # The number of weight layers between the images and a tensor.  Weak keys, so that tracing
        # keeps no activation alive.
        self.weight_depths = WeakTensorKeyDictionary()
        self.weight_depths[images] = 0
        self.module_path: list[str] = []  # names of the modules being called, outermost first
        self.additions: list[TracedAddition] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        function_name, call_kwargs = func.__name__, dict(kwargs or {})
        operand_depths = [
            self.weight_depths[tensor]
            for tensor in iterate_tensors(args)
            if tensor in self.weight_depths
        ]
        if not operand_depths:
            return func(*args, **call_kwargs)
        is_addition = function_name in ADD_FUNCTIONS and self.is_residual_addition(args)
        relu_input = self.find_addition_before_relu(function_name, args)
        if is_addition:
            func = torch.add  # out of place
        elif relu_input is not None:
            func, args, call_kwargs = torch.relu, args[:1], {}
        result = func(*args, **call_kwargs)
        for tensor in iterate_tensors((result,)):
            self.weight_depths[tensor] = max(operand_depths) + (function_name in WEIGHT_FUNCTIONS)
        if is_addition:
            self.record_addition(args, result)
        elif relu_input is not None:
            record_relu_after_addition(relu_input, result)
        return result

    def is_residual_addition(self, args: tuple[Any, ...]) -> bool:
        """Return whether a call of an add function with `args` is a residual addition."""
        a, b = args[:2]
        both_traced = (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and a in self.weight_depths
            and b in self.weight_depths
        )
        return (
            both_traced
            and a is not b
            and a.shape == b.shape
            and a.dim() > 1
            and max(self.weight_depths[a], self.weight_depths[b]) > 0
        )

    def find_addition_before_relu(
        self, function_name: str, args: tuple[Any, ...]
    ) -> TracedAddition | None:
        """Return the last recorded addition if the call applies a ReLU to its sum, else None."""
        if function_name not in RELU_FUNCTIONS or not self.additions:
            return None
        last_addition = self.additions[-1]
        return last_addition if args[0] is last_addition.unit_output else None

    def record_addition(self, args: tuple[Any, ...], result: Tensor) -> None:
        """Record the residual addition of the first two of `args`; `result` is their sum."""
        shortcut, branch = sorted(args[:2], key=lambda operand: int(self.weight_depths[operand]))
        stats = compute_forward_stats(branch.detach(), shortcut.detach(), result.detach(), None)
        self.additions.append(TracedAddition(tuple(self.module_path), result, stats))


def record_relu_after_addition(addition: TracedAddition, result: Tensor) -> None:
    """Take `result`, the ReLU's output, as the unit's output; record which sums the ReLU zeroes."""
    clip_mask, y = addition.unit_output.detach() < 0, result.detach()
    rectified_stats = compute_forward_stats(y, y, y, clip_mask)
    addition.unit_output = result
    addition.stats = replace(
        addition.stats,
        clip_mask=clip_mask,
        mean=rectified_stats.mean,
        variance=rectified_stats.variance,
    )


def iterate_tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield all tensors in `values`, including those in nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from iterate_tensors(value)


@contextmanager
def track_module_calls(
    net: nn.Module, tracer: AdditionTracer, outputs: dict[str, Tensor]
) -> Iterator[None]:
    """Keep `tracer.module_path` up to date, and fill `outputs`, inside the context.

    `outputs` maps the name of each called module to its last output, if that is a tensor.
    """

    def push_module(name: str, module: nn.Module, given: Any) -> None:
        tracer.module_path.append(name)

    def pop_module(name: str, module: nn.Module, given: Any, y: Any) -> None:
        tracer.module_path.pop()
        if isinstance(y, Tensor):
            outputs[name] = y

    hook_handles = []
    for name, module in net.named_modules():
        hook_handles += [
            module.register_forward_pre_hook(partial(push_module, name)),
            module.register_forward_hook(partial(pop_module, name)),
        ]
    try:
        yield
    finally:
        for handle in hook_handles:
            handle.remove()
