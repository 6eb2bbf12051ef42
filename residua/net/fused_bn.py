"""Batch normalisation, the join and ReLU in one, for training on a CPU in bf16: half of a small network's step otherwise.

The kernels (`fused_bn.c`) are compiled once by the machine's own C compiler; where there is none, networks stay as they are.
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

from residua.files import atomic_write
from residua.net.build import ResidualNetwork, ResidualUnit, ScaledSum

KERNEL_SOURCE = Path(__file__).with_name("fused_bn.c")
COMPILE_FLAGS = "-O3 -march=native -std=gnu11 -fno-math-errno -fopenmp -fPIC -w -c"
LINK_FLAGS = "-shared"  # without OpenMP: its symbols are those PyTorch has loaded, so that both share one pool of threads


def install_fused_batchnorm(net: ResidualNetwork) -> str:
    """Replace modules of `net` in place by ones that do the same faster; names, parameters and formats stay.  Says which."""
    if not isinstance(load_kernel_library(), str):
        for module in list(net.modules()):
            if isinstance(module, ResidualUnit):
                fuse_batchnorm_in_unit(module)
        for module in list(net.modules()):
            if isinstance(module, nn.Sequential):
                fuse_batchnorm_in_sequence(module)
    return describe_fused_kernels()


def describe_fused_kernels() -> str:
    """Which kernels `quicken` gives a network."""
    kernel_library = load_kernel_library()
    return (
        f"no fused kernels: {kernel_library}"
        if isinstance(kernel_library, str)
        else "fused BN-ReLU kernels"
    )


def fuse_batchnorm_in_unit(unit: ResidualUnit) -> None:
    """The last BN of the branch, the join and the ReLU after it; without a shortcut, BN and ReLU."""
    if not len(unit.branch) or type(unit.branch[-1]) is not nn.BatchNorm2d:
        return
    relu_follows = [type(module) for module in unit.after] == [nn.ReLU]
    is_plain_sum = (
        type(unit.join) is ScaledSum and unit.join.shortcut_scale == unit.join.branch_scale == 1
    )
    if unit.shortcut is not None and not is_plain_sum:
        return
    norm = FusedBatchNorm(
        unit.branch[-1],
        relu_follows and unit.shortcut is None,
        defers_to_sum=unit.shortcut is not None,
    )
    unit.branch[-1] = norm
    relu_producer: FusedBatchNorm | FusedBatchNormSum = norm
    if unit.shortcut is not None:
        unit.join = relu_producer = FusedBatchNormSum(norm, relu_follows)
    if relu_follows:
        unit.after[0] = ReLUUnlessFused(relu_producer)


def fuse_batchnorm_in_sequence(sequence: nn.Sequential) -> None:
    """Each BN, with the ReLU behind it if there is one."""
    for i, module in enumerate(sequence):
        if type(module) is nn.BatchNorm2d:
            relu_follows = i + 1 < len(sequence) and type(sequence[i + 1]) is nn.ReLU
            sequence[i] = norm = FusedBatchNorm(module, relu_follows, defers_to_sum=False)
            if relu_follows:
                sequence[i + 1] = ReLUUnlessFused(norm)


class FusedBatchNorm(nn.BatchNorm2d):
    """A BN that also does the ReLU behind it, or leaves itself to the join, where it can: `fused` says whether it did."""

    def __init__(self, norm: nn.BatchNorm2d, applies_relu: bool, defers_to_sum: bool) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.training = norm.training
        self.applies_relu, self.defers_to_sum, self.ran_fused = applies_relu, defers_to_sum, False

    def forward(self, x: Tensor) -> Tensor:
        self.ran_fused = self.can_fuse_for(x)
        if not self.ran_fused:
            return super().forward(x)
        return x if self.defers_to_sum else self.normalise_add_relu(x, None, self.applies_relu)

    def can_fuse_for(self, x: Tensor) -> bool:
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

    def normalise_add_relu(self, x: Tensor, residual: Tensor | None, apply_relu: bool) -> Tensor:
        """relu?(BN(x) + residual), in one; the running statistics follow where they are tracked."""
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        y: Tensor = BatchNormAddReLUFunction.apply(
            x, residual, self.weight, self.bias, self, apply_relu
        )  # type: ignore[no-untyped-call]
        return y


class FusedBatchNormSum(ScaledSum):
    """shortcut + branch, where the branch's last BN and the ReLU behind the sum are done too: `fused` says whether."""

    def __init__(self, norm: FusedBatchNorm, applies_relu: bool) -> None:
        super().__init__(1, 1)
        self.norm = (norm,)  # in a tuple, as it is the branch's module, not ours
        self.applies_relu, self.ran_fused = applies_relu, False

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        (norm,) = self.norm
        self.ran_fused = (
            norm.ran_fused and shortcut.dtype == torch.bfloat16 and shortcut.shape == branch.shape
        )
        if self.ran_fused:
            return norm.normalise_add_relu(
                branch, shortcut.contiguous(memory_format=torch.channels_last), self.applies_relu
            )
        return super().forward(
            x, shortcut, nn.BatchNorm2d.forward(norm, branch) if norm.ran_fused else branch
        )


class ReLUUnlessFused(nn.ReLU):
    """The ReLU behind `before`, if that did not do it itself."""

    def __init__(self, producer: FusedBatchNorm | FusedBatchNormSum) -> None:
        super().__init__()
        self.producer = (producer,)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.producer[0].ran_fused else F.relu(x)


class BatchNormAddReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: FusedBatchNorm,
        apply_relu: bool,
    ) -> Tensor:
        y, batch_stats = torch.empty_like(x), torch.empty(4, x.shape[1])
        mean, var = (
            (norm.running_mean, norm.running_var)
            if norm.track_running_stats
            else torch.zeros(2, x.shape[1])
        )
        ctx.rows, ctx.relu, ctx.adds = x.numel() // x.shape[1], apply_relu, residual is not None
        call_kernel(
            "residua_forward",
            x,
            residual,
            y,
            weight,
            bias,
            mean,
            var,
            batch_stats,
            ctx.rows,
            x.shape[1],
            norm.eps,
            norm.momentum,
            apply_relu,
        )
        ctx.save_for_backward(x, batch_stats, y if ctx.adds and apply_relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_stats, y = ctx.saved_tensors
        dy = dy.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        dx, gradients = torch.empty_like(x), torch.empty(2, x.shape[1])
        dresidual = None if y is None else torch.empty_like(x)
        call_kernel(
            "residua_backward",
            dy,
            x,
            y,
            batch_stats,
            gradients[0],
            gradients[1],
            dx,
            dresidual,
            ctx.rows,
            x.shape[1],
            ctx.relu,
        )
        return (
            dx,
            dy if ctx.adds and y is None else dresidual,
            gradients[0],
            gradients[1],
            None,
            None,
        )


def call_kernel(kernel_name: str, *arguments: Tensor | float | None) -> None:
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if getattr(load_kernel_library(), kernel_name)(*values, torch.get_num_threads()):
        raise MemoryError(kernel_name)


@cache
def load_kernel_library() -> ctypes.CDLL | str:
    """The kernels, compiled on the first call on this machine, or why there are none."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return "no C compiler was found"
    try:
        cpu_info = (
            Path("/proc/cpuinfo").read_text().split("\n\n")[0]
            if Path("/proc/cpuinfo").exists()
            else platform.processor()
        )
        cpu_lines = [
            line
            for line in cpu_info.splitlines()
            if line.startswith(("model name", "flags", "Features"))
        ] or [cpu_info]
        cache_key = hashlib.sha256(
            "\n".join(
                [
                    KERNEL_SOURCE.read_text(),
                    compiler,
                    COMPILE_FLAGS,
                    LINK_FLAGS,
                    platform.machine(),
                    *cpu_lines,
                ]
            ).encode()
        )
        path = kernel_cache_folder() / f"{cache_key.hexdigest()[:16]}.so"
        if not path.exists():
            with atomic_write(path) as aside:
                compile_kernels(aside, shlex.split(compiler))
        kernel_library = ctypes.CDLL(str(path))
        p, n, i, d = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
        kernel_library.residua_forward.argtypes = [p] * 8 + [n, n, d, d, i, i]
        kernel_library.residua_backward.argtypes = [p] * 8 + [n, n, i, i]
    except subprocess.SubprocessError as error:
        return f"the C compiler failed ({error})"
    except (OSError, ValueError, AttributeError) as error:
        return f"they could not be built or loaded ({error})"
    return kernel_library


def compile_kernels(library_path: Path, compiler_command: list[str]) -> None:
    object_file = library_path.with_suffix(".o")
    try:
        for command in (
            [*COMPILE_FLAGS.split(), str(KERNEL_SOURCE), "-o", str(object_file)],
            [*LINK_FLAGS.split(), str(object_file), "-lm", "-o", str(library_path)],
        ):
            subprocess.run(
                [*compiler_command, *command], check=True, capture_output=True, timeout=120
            )
    finally:
        object_file.unlink(missing_ok=True)


def kernel_cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residua" / "kernels"
