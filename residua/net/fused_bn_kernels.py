"""Compile, load and call the C kernels of `fused_bn.c`, and say which devices have kernels.

The kernels are compiled on the first call by the C compiler of this machine, for its CPU, and
cached.  torch.compile is not used, since the exact bits of its results vary between versions.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from residua.files import atomic_write, clean_up_interrupted_writes, hold_output_lock
from residua.net.batch_moments import BatchMoments

CPU = torch.device("cpu")
OLDEST_GPU_CAPABILITY = (8, 0)  # Ampere, the first with bf16
KERNEL_SOURCE = Path(__file__).with_name("fused_bn.c")
COMPILE_FLAGS = "-O3 -march=native -std=gnu11 -fno-math-errno -fopenmp -fPIC -w -c"
# not linked with OpenMP: PyTorch has loaded that library, and the kernels share its thread pool
LINK_FLAGS = "-shared"


def describe_fused_kernels(device: torch.device = CPU) -> str:
    """Name the kernels that fused BN uses on a device, or say why there are none."""
    reason = explain_missing_kernels(device)
    if reason is not None:
        return f"no fused kernels: {reason}"
    return "fused BN-ReLU kernels" if device.type == "cpu" else "fused BN-ReLU kernels in Triton"


def explain_missing_kernels(device: torch.device) -> str | None:
    """Return the reason why fused BN cannot be used on a device; None if it can."""
    if device.type == "cpu":
        kernel_library = load_kernel_library()
        return kernel_library if isinstance(kernel_library, str) else None
    if device.type == "cuda":
        if device.index is None and torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
        return explain_missing_triton_kernels(device)
    return f"there are none for the device {device.type}"


@cache
def explain_missing_triton_kernels(device: torch.device) -> str | None:
    """Return the reason why the Triton kernels cannot be used on a GPU; None if a trial succeeds.

    Triton is optional: PyTorch's builds for Linux and CUDA install it, others do not.  It needs a
    C compiler.  The trial waits for the GPU, so it must not happen first in a CUDA graph's capture.
    """
    if torch.version.cuda is None:
        return "the GPU is not from NVIDIA"
    if torch.cuda.get_device_capability(device) < OLDEST_GPU_CAPABILITY:
        return f"the GPU {torch.cuda.get_device_name(device)} is too old for bf16"
    if find_spec("triton") is None:
        return "the package triton is not installed"
    try:
        from residua.net.triton_batchnorm import run_trial_kernels

        run_trial_kernels(device)
    except Exception as error:  # Triton raises errors of many kinds
        first_line = str(error).strip().partition("\n")[0]
        return f"Triton failed ({type(error).__name__}: {first_line})"
    return None


class BatchNormAddReLUFunction(torch.autograd.Function):
    """Autograd Function: BN(x) in training mode, then an optional addition and an optional ReLU.

    `x` and `residual` are bf16, channels-last (n, c, h, w).  Arithmetic is in fp32, and the result
    is rounded once to bf16.  The running statistics of the BN are updated if it tracks them, and
    its count of batches too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        apply_relu: bool,
        moments: BatchMoments | None = None,  # which no convolution computes on a CPU
    ) -> Tensor:
        channels = x.shape[1]
        if norm.track_running_stats and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        y, batch_stats = torch.empty_like(x), torch.empty(4, channels)
        mean, var = (
            (norm.running_mean, norm.running_var)
            if norm.track_running_stats
            else torch.zeros(2, channels)
        )
        ctx.rows, ctx.relu, ctx.adds = x.numel() // channels, apply_relu, residual is not None
        tensors = x, residual, y, weight, bias, mean, var, batch_stats
        sizes = ctx.rows, channels
        call_kernel("residua_forward", *tensors, *sizes, norm.eps, norm.momentum, apply_relu)
        ctx.save_for_backward(x, batch_stats, y if ctx.adds and apply_relu else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, batch_stats, y = ctx.saved_tensors
        dy = dy.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        dx, gradients = torch.empty_like(x), torch.empty(2, x.shape[1])
        dweight, dbias = gradients[0], gradients[1]
        dresidual = None if y is None else torch.empty_like(x)
        tensors = dy, x, y, batch_stats, dweight, dbias, dx, dresidual
        call_kernel("residua_backward", *tensors, ctx.rows, x.shape[1], ctx.relu)
        if ctx.adds and y is None:  # without a ReLU, the gradient of the sum is that of `residual`
            dresidual = dy
        return dx, dresidual, dweight, dbias, None, None, None


def call_kernel(kernel_name: str, *arguments: Tensor | float | None) -> None:
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    if getattr(load_kernel_library(), kernel_name)(*values, torch.get_num_threads()):
        raise MemoryError(kernel_name)


@cache
def load_kernel_library() -> ctypes.CDLL | str:
    """Load the kernels, and compile them first if needed; on failure, return the reason as text."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        return "no C compiler was found"
    try:
        path = kernel_cache_folder() / f"{compute_kernel_cache_key(compiler)[:16]}.so"
        clean_up_interrupted_writes(path.parent)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with hold_output_lock(path):
                if not path.exists():  # no other process has compiled them meanwhile
                    with atomic_write(path) as unfinished_path:
                        compile_kernels(unfinished_path, shlex.split(compiler))
        kernel_library = ctypes.CDLL(str(path))
        p, n, i, d = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
        kernel_library.residua_forward.argtypes = [p] * 8 + [n, n, d, d, i, i]
        kernel_library.residua_backward.argtypes = [p] * 8 + [n, n, i, i]
    except subprocess.SubprocessError as error:
        return f"the C compiler failed ({error})"
    except (OSError, ValueError, AttributeError) as error:
        return f"they could not be built or loaded ({error})"
    return kernel_library


def compute_kernel_cache_key(compiler: str) -> str:
    """Hash everything that the compiled code depends on: source, compiler, flags and CPU."""
    cpu_info_path = Path("/proc/cpuinfo")
    cpu_info = (
        cpu_info_path.read_text().split("\n\n")[0]
        if cpu_info_path.exists()
        else platform.processor()
    )
    cpu_lines = [
        line
        for line in cpu_info.splitlines()
        if line.startswith(("model name", "flags", "Features"))
    ] or [cpu_info]
    machine = platform.machine()
    parts = [KERNEL_SOURCE.read_text(), compiler, COMPILE_FLAGS, LINK_FLAGS, machine, *cpu_lines]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def compile_kernels(library_path: Path, compiler_command: list[str]) -> None:
    """Compile and link the kernels.

    Raises subprocess.SubprocessError if the compiler fails.
    """
    object_file = library_path.with_name("kernels.o")
    commands = (
        [*COMPILE_FLAGS.split(), str(KERNEL_SOURCE), "-o", str(object_file)],
        [*LINK_FLAGS.split(), str(object_file), "-lm", "-o", str(library_path)],
    )
    try:
        for command in commands:
            subprocess.run(
                [*compiler_command, *command], check=True, capture_output=True, timeout=120
            )
    finally:
        object_file.unlink(missing_ok=True)


def kernel_cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residua" / "kernels"
