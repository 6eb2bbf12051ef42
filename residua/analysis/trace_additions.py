"""The signals of any module: its additions are found while it computes."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from residua.analysis.signals import (
    ForwardStats,
    UnitSignals,
    compute_forward_stats,
    compute_survival,
    compute_unit_signals,
    validate_unit_names,
)
from residua.errors import UsageError

ADD_FUNCTIONS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
WEIGHT_FUNCTIONS = {"conv1d", "conv2d", "conv3d", "linear"}
RELU_FUNCTIONS = {"relu", "relu_"}


@dataclass
class TracedAddition:
    """An addition that was seen, the modules around it, and the unit's output so far."""

    module_path: tuple[str, ...]
    unit_output: Tensor
    stats: ForwardStats


class AdditionTracer(TorchFunctionMode):
    """Sees each operation of a forward pass; a join is the sum of two tensors of one shape that both come from the images.

    The operand with fewer weight layers behind it is the shortcut.  What happens in place is done beside it, so that each y stays.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.weight_depths = (
            WeakTensorKeyDictionary()
        )  # weight layers between the images and a tensor
        self.weight_depths[images] = 0
        self.module_path: list[str] = []  # modules that compute just now, outermost first
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
        if is_addition:
            func = torch.add
        last_addition = self.additions[-1] if self.additions else None
        is_relu_of_sum = (
            function_name in RELU_FUNCTIONS
            and last_addition is not None
            and args[0] is last_addition.unit_output
        )
        if is_relu_of_sum:
            func, call_kwargs = torch.relu, {}
            args = args[:1]
        result = func(*args, **call_kwargs)
        for tensor in iterate_tensors((result,)):
            self.weight_depths[tensor] = max(operand_depths) + (function_name in WEIGHT_FUNCTIONS)
        if is_addition:
            shortcut, branch = sorted(
                args[:2], key=lambda operand: int(self.weight_depths[operand])
            )
            self.additions.append(
                TracedAddition(
                    tuple(self.module_path),
                    result,
                    compute_forward_stats(
                        branch.detach(), shortcut.detach(), result.detach(), None
                    ),
                )
            )
        elif is_relu_of_sum and last_addition is not None:
            clip_mask, y = last_addition.unit_output.detach() < 0, result.detach()
            rectified_stats = compute_forward_stats(y, y, y, clip_mask)
            last_addition.unit_output, last_addition.stats = (
                result,
                replace(
                    last_addition.stats,
                    clip_mask=clip_mask,
                    mean=rectified_stats.mean,
                    variance=rectified_stats.variance,
                ),
            )
        return result

    def is_residual_addition(self, args: tuple[Any, ...]) -> bool:
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


def iterate_tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from iterate_tensors(value)


@contextmanager
def track_module_calls(
    net: nn.Module, tracer: AdditionTracer, outputs: dict[str, Tensor]
) -> Iterator[None]:
    """Tells the follower which modules compute, and keeps the last output of each."""

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


def measure_by_tracing(
    net: nn.Module, images: Tensor, labels: Tensor, unit_names: Sequence[str] = ()
) -> list[UnitSignals]:
    """The signals of a foreign module; a stage ends where the shape of the units' outputs changes.

    A unit that is named but adds nothing has no clip fraction, survival, response and ratio.  A gradient norm is that of all
    weights of the unit's module, its projection included.
    """
    modules = dict(net.named_modules())
    if unit_names:
        validate_unit_names(unit_names, [name for name in modules if name])
    images = images.detach().requires_grad_()
    tracer, outputs = AdditionTracer(images), dict[str, Tensor]()
    with torch.enable_grad():
        with track_module_calls(net, tracer, outputs), tracer:
            logits = net(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise UsageError(
                f"{type(net).__name__} does not give class scores (n, classes): its gradients cannot be measured"
            )
        traced_units = (
            select_traced_units(tracer.additions, unit_names, outputs)
            if unit_names
            else name_traced_additions(tracer.additions, modules)
        )
        if not traced_units:
            raise UsageError(
                f"{type(net).__name__} adds nothing to anything: name the modules to measure"
            )
        weights_by_unit = [
            [p for p in modules[name.split(" ")[0]].parameters() if p.dim() > 1 and p.requires_grad]
            for name, *_ in traced_units
        ]
        unit_outputs = [y for _, y, _ in traced_units]
        gradient_inputs = [
            *unit_outputs,
            *(weight for group in weights_by_unit for weight in group),
        ]
        gradients = list(
            torch.autograd.grad(
                F.cross_entropy(logits, labels),
                gradient_inputs,
                allow_unused=True,
                materialize_grads=True,
            )
        )
    positions = assign_stages(unit_outputs)
    survivals = compute_survival(
        [passed.clip_mask if passed else None for *_, passed in traced_units],
        [stage for stage, _ in positions],
    )
    stage_end_gradients = {
        stage: gradient for (stage, _), gradient in zip(positions, gradients, strict=False)
    }  # the last of each stage stays
    measured, offset = [], len(unit_outputs)
    for i, (name, output, stats) in enumerate(traced_units):
        measured_stats = stats or compute_forward_stats(
            output.detach(), output.detach(), output.detach(), None
        )
        weight_gradients, offset = (
            gradients[offset : offset + len(weights_by_unit[i])],
            offset + len(weights_by_unit[i]),
        )
        unit_signals = compute_unit_signals(
            name,
            positions[i],
            measured_stats,
            survivals[i],
            weight_gradients,
            gradients[i],
            stage_end_gradients[positions[i][0]],
        )
        without_addition = replace(
            unit_signals, clip_fraction=None, survival=None, response_std=None, residual_ratio=None
        )
        measured.append(unit_signals if stats else without_addition)
    return measured


TracedUnit = tuple[str, Tensor, ForwardStats | None]


def name_traced_additions(
    additions: list[TracedAddition], modules: dict[str, nn.Module]
) -> list[TracedUnit]:
    """A unit for each join, named after the innermost module around it that has weights; a second one there is `name (2)`."""
    name_counts, traced_units = Counter[str](), list[TracedUnit]()
    for addition in additions:
        owner_names = [
            name
            for name in addition.module_path
            if name and next(modules[name].parameters(), None) is not None
        ]
        name = owner_names[-1] if owner_names else ""
        name_counts[name] += 1
        traced_units.append(
            (
                f"{name} ({name_counts[name]})" if name_counts[name] > 1 else name,
                addition.unit_output,
                addition.stats,
            )
        )
    return traced_units


def select_traced_units(
    additions: list[TracedAddition], unit_names: Sequence[str], outputs: dict[str, Tensor]
) -> list[TracedUnit]:
    """A unit for each module that was asked for, with the last join in it, if its output is that join's."""
    traced_units: list[TracedUnit] = []
    for unit_name in unit_names:
        if unit_name not in outputs:
            raise UsageError(f"{unit_name} gives no tensor, or was not used: name another module")
        additions_inside = [
            join
            for join in additions
            if unit_name in join.module_path and join.unit_output is outputs[unit_name]
        ]
        traced_units.append(
            (
                unit_name,
                outputs[unit_name],
                additions_inside[-1].stats if additions_inside else None,
            )
        )
    return traced_units


def assign_stages(unit_outputs: list[Tensor]) -> list[tuple[int, int]]:
    """Stage and index in it of each unit."""
    positions, stage, index, shape = [], 0, 0, None
    for output in unit_outputs:
        stage, index = (stage, index + 1) if output.shape == shape else (stage + 1, 1)
        shape = output.shape
        positions.append((stage, index))
    return positions
