"""The device, precision and process group of training, and their description for run.json."""

import ctypes
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from residua.config.memory import RECOMPUTE_MODES, RecomputeMode
from residua.config.optimisers import Optimiser
from residua.config.serialize import Json
from residua.errors import UsageError, unknown_name_error
from residua.net.activation_checkpoint import checkpoint_activations, draws_randomly
from residua.net.build import ResidualNetwork
from residua.net.cropped_conv import crop_kernels
from residua.net.fast_conv import describe_convolutions, install_triton_convolutions
from residua.net.fused_bn import install_fused_batchnorm
from residua.net.fused_bn_kernels import describe_fused_kernels
from residua.net.native_bf16 import device_has_bf16
from residua.training.distributed import SINGLE_PROCESS, DataParallelGroup
from residua.version import __version__

if sys.platform != "win32":
    import resource

Precision = Literal["auto", "bf16", "fp32"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Machine:
    """The device, precision and process group that networks are trained and evaluated with."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    recompute: RecomputeMode = "none"  # activation checkpointing; it does not change results
    group: DataParallelGroup = SINGLE_PROCESS

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def prepare_model_in_place(self, net: ModuleT, bn_splits: int = 1) -> ModuleT:
        """Move `net` to the device in channels-last layout, and prepare it in place.

        It is then trained with `bn_splits`, or only evaluated.  In bf16 on a CPU, kernels are
        cropped to their inputs (see `net.cropped_conv`).  In bf16, our own networks get fused BN
        and, on a GPU, small convolutions in Triton (see `net.fast_conv`).  Activation checkpointing
        is installed if `recompute` is not "none".
        """
        if self.precision == "bf16" and self.device.type == "cpu":
            crop_kernels(net)
        if isinstance(net, ResidualNetwork):
            if self.has_fused_layers(net, bn_splits):
                install_triton_convolutions(net, self.device)
                install_fused_batchnorm(net, self.device)
            checkpoint_activations(net, self.recompute)
        layout = torch.channels_last
        moved: ModuleT = net.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        return moved

    def has_fused_layers(self, net: nn.Module, bn_splits: int = 1) -> bool:
        """Return whether `prepare_model_in_place` installs fused layers in `net`.

        On a GPU it does so only for a net whose step can be captured, because Triton's kernels take
        long to launch outside a CUDA graph.
        """
        return (
            self.precision == "bf16"
            and isinstance(net, ResidualNetwork)
            and (self.device.type == "cpu" or self.can_use_cuda_graph(net, bn_splits))
        )

    def describe_engine(
        self, net: nn.Module, bn_splits: int, optimiser: Optimiser
    ) -> dict[str, Json]:
        """Say by what means each part of a step of `net`, prepared here, is computed."""
        is_fast, world_size = self.has_fused_layers(net, bn_splits), self.group.world_size
        # synchronised BN, with more ranks than splits, has no fused kernels
        has_fused_kernels = is_fast and bn_splits >= world_size
        captured = "one CUDA graph" if world_size == 1 else "two CUDA graphs"
        is_captured = self.can_capture_step(net, bn_splits, optimiser)
        return {
            "step": captured if is_captured else "one operator after another",
            "kernels": describe_fused_kernels(self.device) if has_fused_kernels else "PyTorch's",
            "convolutions": describe_convolutions(self.device) if is_fast else "PyTorch's",
        }

    def can_capture_step(self, net: nn.Module, bn_splits: int, optimiser: Optimiser) -> bool:
        """Return whether a step of `net` with its update can be captured as CUDA graphs.

        An optimiser that may read its rate on the host would wait for the GPU.
        """
        return self.can_use_cuda_graph(net, bn_splits) and optimiser.TAKES_LR_AS_TENSOR

    def can_use_cuda_graph(self, net: nn.Module, bn_splits: int = 1) -> bool:
        """Return whether a step of `net` with `bn_splits` can be captured as CUDA graphs.

        A captured step must do the same work each time, without the host.  Our own networks do so,
        unless random numbers must be drawn again for activation checkpointing, or from a seed of
        each split.  Other modules are never captured, because they might not.  With several ranks,
        the all-reduce of the gradients runs between two graphs, so BN must not be synchronised.
        """
        needs_generator = draws_randomly(net) and (self.recompute != "none" or bn_splits > 1)
        return (
            self.device.type == "cuda"
            and isinstance(net, ResidualNetwork)
            and bn_splits >= self.group.world_size
            and not needs_generator
        )

    def measure_peak_memory(self) -> int | None:
        """Return the bytes that tensors have taken at most on the GPU or, on a CPU, this process.

        The result is None where the operating system does not tell.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak

    def describe_environment(self) -> dict[str, Json]:
        """Describe versions, hardware and settings for run.json."""
        device = f"CPU, {platform.machine()}"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name()
        return {
            "residua": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": device,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "recompute": self.recompute,
            **({"processes": self.group.world_size} if self.group.world_size > 1 else {}),
        }


def set_up_machine(
    precision: Precision = "auto",
    recompute: RecomputeMode = "none",
    group: DataParallelGroup = SINGLE_PROCESS,
    device_choice: DeviceChoice = "auto",
) -> Machine:
    """Detect the machine that this process runs on: its GPU, or else its CPU.

    `device_choice` is `cpu` to ignore a GPU, and `cuda` to require one.
    Precision `auto` means bf16 if the device computes it natively, otherwise fp32.  On a GPU, cuDNN
    is made deterministic for the whole process; on a CPU, glibc is told to keep freed memory.
    Raises UsageError for an unknown precision, recompute mode or device, and for a missing GPU.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise UsageError(f"there is no precision {precision!r}: choose from auto, bf16, fp32")
    if recompute not in RECOMPUTE_MODES:
        raise unknown_name_error("mode of activation checkpointing", recompute, RECOMPUTE_MODES)
    if device_choice not in get_args(DeviceChoice):
        raise unknown_name_error("device", device_choice, get_args(DeviceChoice))
    if device_choice == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no GPU on this machine: use the device cpu or auto")
    if device_choice != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda")
        set_deterministic_fp32_cudnn()
    else:
        device = torch.device("cpu")
        keep_freed_heap_memory()
    if precision == "auto":
        precision = "bf16" if device_has_bf16(device) else "fp32"
    return Machine(device, precision, recompute, group)


def set_deterministic_fp32_cudnn() -> None:
    """Make GPU convolutions deterministic, and compute fp32 ones in fp32 rather than TF32."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def keep_freed_heap_memory() -> None:
    """Let glibc keep freed memory for the next step's activations.

    Otherwise 8 % of the time of a step is spent on returning memory pages to the system.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
