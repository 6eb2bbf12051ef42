"""Batch normalisation, the join and ReLU in one, for training on a CPU in bf16: half of a small network's step otherwise.

The kernels (`kernels.c`) are compiled once by the machine's own C compiler; where there is none, networks stay as they are.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residua.files import written_aside
from residua.net.build import ResidualNetwork, ResidualUnit, Sum

SOURCE = Path(__file__).with_name("kernels.c")
COMPILE = "-O3 -march=native -std=gnu11 -fno-math-errno -fopenmp -fPIC -w -c"
LINK = "-shared"  # without OpenMP: its symbols are those PyTorch has loaded, so that both share one pool of threads


def quicken(net: ResidualNetwork) -> str:
    """Replace modules of `net` in place by ones that do the same faster; names, parameters and formats stay.  Says which."""
    if not isinstance(library(), str):
        for module in list(net.modules()):
            if isinstance(module, ResidualUnit):
                quicken_unit(module)
        for module in list(net.modules()):
            if isinstance(module, nn.Sequential):
                quicken_sequence(module)
    return kernels()


def kernels() -> str:
    """Which kernels `quicken` gives a network."""
    found = library()
    return f"no fused kernels: {found}" if isinstance(found, str) else "fused BN-ReLU kernels"


def quicken_unit(unit: ResidualUnit) -> None:
    """The last BN of the branch, the join and the ReLU after it; without a shortcut, BN and ReLU."""
    if not len(unit.branch) or type(unit.branch[-1]) is not nn.BatchNorm2d:
        return
    rectified = [type(module) for module in unit.after] == [nn.ReLU]
    joined = type(unit.join) is Sum and unit.join.a == unit.join.b == 1
    if unit.shortcut is not None and not joined:
        return
    norm = Norm(unit.branch[-1], rectified and unit.shortcut is None, defers=unit.shortcut is not None)
    unit.branch[-1] = norm
    before: Norm | NormSum = norm
    if unit.shortcut is not None:
        unit.join = before = NormSum(norm, rectified)
    if rectified:
        unit.after[0] = Rectified(before)


def quicken_sequence(sequence: nn.Sequential) -> None:
    """Each BN, with the ReLU behind it if there is one."""
    for i, module in enumerate(sequence):
        if type(module) is nn.BatchNorm2d:
            rectified = i + 1 < len(sequence) and type(sequence[i + 1]) is nn.ReLU
            sequence[i] = norm = Norm(module, rectified, defers=False)
            if rectified:
                sequence[i + 1] = Rectified(norm)


class Norm(nn.BatchNorm2d):
    """A BN that also does the ReLU behind it, or leaves itself to the join, where it can: `fused` says whether it did."""

    def __init__(self, norm: nn.BatchNorm2d, relu: bool, defers: bool) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.training = norm.training
        self.relu, self.defers, self.fused = relu, defers, False

    def forward(self, x: Tensor) -> Tensor:
        self.fused = self.can_fuse(x)
        if not self.fused:
            return super().forward(x)
        return x if self.defers else self.normalise(x, None, self.relu)

    def can_fuse(self, x: Tensor) -> bool:
        return (
            self.training
            and x.dtype == torch.bfloat16
            and x.device.type == "cpu"
            and x.dim() == 4
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.shape[1] == self.num_features
            and x.numel() > self.num_features
            and self.affine
            and self.weight.dtype == torch.float32
            and self.running_mean is not None
            and self.running_mean.dtype == torch.float32
            and isinstance(self.momentum, float)
        )

    def normalise(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """relu?(BN(x) + residual), in one; the running statistics follow where they are tracked."""
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        y: Tensor = Normalise.apply(x, residual, self.weight, self.bias, self, relu)  # type: ignore[no-untyped-call]
        return y


class NormSum(Sum):
    """shortcut + branch, where the branch's last BN and the ReLU behind the sum are done too: `fused` says whether."""

    def __init__(self, norm: Norm, relu: bool) -> None:
        super().__init__(1, 1)
        self.norm = (norm,)  # in a tuple, as it is the branch's module, not ours
        self.relu, self.fused = relu, False

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        (norm,) = self.norm
        self.fused = norm.fused and shortcut.dtype == torch.bfloat16 and shortcut.shape == branch.shape
        if self.fused:
            return norm.normalise(branch, shortcut.contiguous(memory_format=torch.channels_last), self.relu)
        return super().forward(x, shortcut, nn.BatchNorm2d.forward(norm, branch) if norm.fused else branch)


class Rectified(nn.ReLU):
    """The ReLU behind `before`, if that did not do it itself."""

    def __init__(self, before: Norm | NormSum) -> None:
        super().__init__()
        self.before = (before,)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.before[0].fused else F.relu(x)


class Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, norm: Norm, relu: bool) -> Tensor:
        y, saved = torch.empty_like(x), torch.empty(4, x.shape[1])
        mean, var = (norm.running_mean, norm.running_var) if norm.track_running_stats else torch.zeros(2, x.shape[1])
        ctx.rows, ctx.relu, ctx.adds = x.numel() // x.shape[1], relu, residual is not None
        call("residua_forward", x, residual, y, weight, bias, mean, var, saved, ctx.rows, x.shape[1], norm.eps, norm.momentum, relu)
        ctx.save_for_backward(x, saved, y if ctx.adds and relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, saved, y = ctx.saved_tensors
        dy = dy.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        dx, gradients = torch.empty_like(x), torch.empty(2, x.shape[1])
        dresidual = None if y is None else torch.empty_like(x)
        call("residua_backward", dy, x, y, saved, gradients[0], gradients[1], dx, dresidual, ctx.rows, x.shape[1], ctx.relu)
        return dx, dy if ctx.adds and y is None else dresidual, gradients[0], gradients[1], None, None


def call(name: str, *arguments: Tensor | float | None) -> None:
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if getattr(library(), name)(*values, torch.get_num_threads()):
        raise MemoryError(name)


@cache
def library() -> ctypes.CDLL | str:
    """The kernels, compiled on the first call on this machine, or why there are none."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return "no C compiler was found"
    try:
        cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else platform.processor()
        kind = [line for line in cpu.splitlines() if line.startswith(("model name", "flags", "Features"))] or [cpu]
        key = hashlib.sha256("\n".join([SOURCE.read_text(), compiler, COMPILE, LINK, platform.machine(), *kind]).encode())
        path = cache_folder() / f"{key.hexdigest()[:16]}.so"
        if not path.exists():
            with written_aside(path) as aside:
                compile_to(aside, shlex.split(compiler))
        loaded = ctypes.CDLL(str(path))
        p, n, i, d = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
        loaded.residua_forward.argtypes = [p] * 8 + [n, n, d, d, i, i]
        loaded.residua_backward.argtypes = [p] * 8 + [n, n, i, i]
    except subprocess.SubprocessError as error:
        return f"the C compiler failed ({error})"
    except (OSError, ValueError, AttributeError) as error:
        return f"they could not be built or loaded ({error})"
    return loaded


def compile_to(path: Path, compiler: list[str]) -> None:
    made = path.with_suffix(".o")
    try:
        for command in ([*COMPILE.split(), str(SOURCE), "-o", str(made)], [*LINK.split(), str(made), "-lm", "-o", str(path)]):
            subprocess.run([*compiler, *command], check=True, capture_output=True, timeout=120)
    finally:
        made.unlink(missing_ok=True)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residua" / "kernels"
