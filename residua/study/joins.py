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

from residua.errors import UsageError
from residua.study.signals import Passed, Signal, known, seen, signal, surviving

ADDITIONS = {"add", "__add__", "__radd__", "__iadd__", "add_"}
WEIGHTS = {"conv1d", "conv2d", "conv3d", "linear"}
RELUS = {"relu", "relu_"}


@dataclass
class Joined:
    """An addition that was seen, the modules around it, and the unit's output so far."""

    path: tuple[str, ...]
    y: Tensor
    passed: Passed


class Follower(TorchFunctionMode):
    """Sees each operation of a forward pass; a join is the sum of two tensors of one shape that both come from the images.

    The operand with fewer weight layers behind it is the shortcut.  What happens in place is done beside it, so that each y stays.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.layers = WeakTensorKeyDictionary()  # weight layers between the images and a tensor
        self.layers[images] = 0
        self.path: list[str] = []  # modules that compute just now, outermost first
        self.joins: list[Joined] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, options = func.__name__, dict(kwargs or {})
        depths = [self.layers[tensor] for tensor in tensors(args) if tensor in self.layers]
        if not depths:
            return func(*args, **options)
        joined = name in ADDITIONS and self.joins_two(args)
        if joined:
            func = torch.add
        last = self.joins[-1] if self.joins else None
        behind = name in RELUS and last is not None and args[0] is last.y
        if behind:
            func, options = torch.relu, {}
            args = args[:1]
        result = func(*args, **options)
        for tensor in tensors((result,)):
            self.layers[tensor] = max(depths) + (name in WEIGHTS)
        if joined:
            shortcut, branch = sorted(args[:2], key=lambda operand: int(self.layers[operand]))
            self.joins.append(Joined(tuple(self.path), result, seen(branch.detach(), shortcut.detach(), result.detach(), None)))
        elif behind and last is not None:
            cut, y = last.y.detach() < 0, result.detach()
            again = seen(y, y, y, cut)
            last.y, last.passed = result, replace(last.passed, clipped=cut, mean=again.mean, variance=again.variance)
        return result

    def joins_two(self, args: tuple[Any, ...]) -> bool:
        a, b = args[:2]
        both = isinstance(a, Tensor) and isinstance(b, Tensor) and a in self.layers and b in self.layers
        return both and a is not b and a.shape == b.shape and a.dim() > 1 and max(self.layers[a], self.layers[b]) > 0


def tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


@contextmanager
def paths(net: nn.Module, follower: Follower, outputs: dict[str, Tensor]) -> Iterator[None]:
    """Tells the follower which modules compute, and keeps the last output of each."""

    def enter(name: str, module: nn.Module, given: Any) -> None:
        follower.path.append(name)

    def leave(name: str, module: nn.Module, given: Any, y: Any) -> None:
        follower.path.pop()
        if isinstance(y, Tensor):
            outputs[name] = y

    handles = []
    for name, module in net.named_modules():
        handles += [module.register_forward_pre_hook(partial(enter, name)), module.register_forward_hook(partial(leave, name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def followed(net: nn.Module, images: Tensor, labels: Tensor, units: Sequence[str] = ()) -> list[Signal]:
    """The signals of a foreign module; a stage ends where the shape of the units' outputs changes.

    A unit that is named but adds nothing has no clip fraction, survival, response and ratio.  A gradient norm is that of all
    weights of the unit's module, its projection included.
    """
    modules = dict(net.named_modules())
    if units:
        known(units, [name for name in modules if name])
    images = images.detach().requires_grad_()
    follower, outputs = Follower(images), dict[str, Tensor]()
    with torch.enable_grad():
        with paths(net, follower, outputs), follower:
            scores = net(images)
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise UsageError(f"{type(net).__name__} does not give class scores (n, classes): its gradients cannot be measured")
        places = named(follower.joins, units, outputs) if units else found(follower.joins, modules)
        if not places:
            raise UsageError(f"{type(net).__name__} adds nothing to anything: name the modules to measure")
        weights = [[p for p in modules[name.split(" ")[0]].parameters() if p.dim() > 1 and p.requires_grad] for name, *_ in places]
        ys = [y for _, y, _ in places]
        wanted = [*ys, *(weight for group in weights for weight in group)]
        gradients = list(torch.autograd.grad(F.cross_entropy(scores, labels), wanted, allow_unused=True, materialize_grads=True))
    stages = staged(ys)
    survivals = surviving([passed.clipped if passed else None for *_, passed in places], [stage for stage, _ in stages])
    ends = {stage: gradient for (stage, _), gradient in zip(stages, gradients, strict=False)}  # the last of each stage stays
    signals, at = [], len(ys)
    for i, (name, y, passed) in enumerate(places):
        forth = passed or seen(y.detach(), y.detach(), y.detach(), None)
        of_weights, at = gradients[at : at + len(weights[i])], at + len(weights[i])
        one = signal(name, stages[i], forth, survivals[i], of_weights, gradients[i], ends[stages[i][0]])
        silent = replace(one, clip_fraction=None, survival=None, response_std=None, residual_ratio=None)
        signals.append(one if passed else silent)
    return signals


Place = tuple[str, Tensor, Passed | None]


def found(joins: list[Joined], modules: dict[str, nn.Module]) -> list[Place]:
    """A unit for each join, named after the innermost module around it that has weights; a second one there is `name (2)`."""
    count, places = Counter[str](), list[Place]()
    for join in joins:
        owners = [name for name in join.path if name and next(modules[name].parameters(), None) is not None]
        name = owners[-1] if owners else ""
        count[name] += 1
        places.append((f"{name} ({count[name]})" if count[name] > 1 else name, join.y, join.passed))
    return places


def named(joins: list[Joined], units: Sequence[str], outputs: dict[str, Tensor]) -> list[Place]:
    """A unit for each module that was asked for, with the last join in it, if its output is that join's."""
    places: list[Place] = []
    for unit in units:
        if unit not in outputs:
            raise UsageError(f"{unit} gives no tensor, or was not used: name another module")
        inside = [join for join in joins if unit in join.path and join.y is outputs[unit]]
        places.append((unit, outputs[unit], inside[-1].passed if inside else None))
    return places


def staged(ys: list[Tensor]) -> list[tuple[int, int]]:
    """Stage and index in it of each unit."""
    places, stage, index, shape = [], 0, 0, None
    for y in ys:
        stage, index = (stage, index + 1) if y.shape == shape else (stage + 1, 1)
        shape = y.shape
        places.append((stage, index))
    return places
