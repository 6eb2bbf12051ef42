"""What the machine offers: device, precision, memory format, and what it is, for the record."""

import ctypes
import platform
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal, TypeVar

import torch
from torch import nn

from residua.config.memory import RECOMPUTE_MODES, RecomputeMode
from residua.config.serialize import Json
from residua.errors import UsageError, unknown_name_error
from residua.net.activation_checkpoint import checkpoint_activations
from residua.net.build import ResidualNetwork
from residua.net.fused_bn import describe_fused_kernels, install_fused_batchnorm
from residua.training.distributed import SINGLE_PROCESS, DataParallelGroup

Precision = Literal["auto", "bf16", "fp32"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where, in which precision and in which processes a network is trained."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    recompute: RecomputeMode = (
        "none"  # of activations, in the backward pass; results do not depend on it
    )
    group: DataParallelGroup = SINGLE_PROCESS

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def prepare_model(self, net: ModuleT) -> ModuleT:
        """`net` on the device, weights in channels-last order, fused where that is faster, in segments if recomputed."""
        if isinstance(net, ResidualNetwork):
            if self.uses_fused_bn:
                install_fused_batchnorm(net)
            checkpoint_activations(net, self.recompute)
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @property
    def uses_fused_bn(self) -> bool:
        return self.device.type == "cpu" and self.precision == "bf16"

    def can_use_cuda_graph(self, net: nn.Module) -> bool:
        """Whether a step can be one CUDA graph: of our own networks, which do the same at each step, computed once."""
        return (
            self.device.type == "cuda"
            and isinstance(net, ResidualNetwork)
            and self.recompute == "none"
        )

    def describe_environment(self, bn_splits: int = 1) -> dict[str, Json]:
        """For the record of a run whose batch has so many parts."""
        return {
            "residua": version("residua"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else f"CPU, {platform.machine()}",
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "kernels": describe_fused_kernels()
            if self.uses_fused_bn and bn_splits >= self.group.world_size
            else "PyTorch's",
            "recompute": self.recompute,
            **({"processes": self.group.world_size} if self.group.world_size > 1 else {}),
        }


def detect_machine(
    precision: Precision = "auto",
    recompute: RecomputeMode = "none",
    group: DataParallelGroup = SINGLE_PROCESS,
) -> Machine:
    """This machine.  `auto` is bf16 where it is a native speed: on a GPU from Ampere on, on a CPU with bf16 instructions."""
    if precision not in ("auto", "bf16", "fp32"):
        raise UsageError(f"no precision {precision!r}: choose from auto, bf16, fp32")
    if recompute not in RECOMPUTE_MODES:
        raise unknown_name_error("way to recompute", recompute, RECOMPUTE_MODES)
    if torch.cuda.is_available():
        has_native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.device("cuda")
        make_cudnn_deterministic()
    else:
        has_native_bf16 = cpu_has_bf16()
        device = torch.device("cpu")
        keep_freed_heap_memory()
    if precision == "auto":
        precision = "bf16" if has_native_bf16 else "fp32"
    return Machine(device, precision, recompute, group)


def make_cudnn_deterministic() -> None:
    """Make convolutions on a GPU give the same bits each time, and in fp32 multiply fp32, not TF32; for the whole process."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself (AVX512-BF16 or AMX); emulated, bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_heap_memory() -> None:
    """Let glibc keep freed activations for the next step rather than return their pages to the system (8 % of a step)."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
