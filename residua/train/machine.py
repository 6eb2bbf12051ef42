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

from residua.errors import UsageError, unknown
from residua.net.build import ResidualNetwork
from residua.net.fast import kernels, quicken
from residua.net.recompute import recompute
from residua.spec.memory import RECOMPUTES, Recompute
from residua.spec.text import Json
from residua.train.parallel import ALONE, Group

Precision = Literal["auto", "bf16", "fp32"]
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where, in which precision and in which processes a network is trained."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    recompute: Recompute = "none"  # of activations, in the backward pass; results do not depend on it
    group: Group = ALONE

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, net: Net) -> Net:
        """`net` on the device, weights in channels-last order, fused where that is faster, in segments if recomputed."""
        if isinstance(net, ResidualNetwork):
            if self.fuses:
                quicken(net)
            recompute(net, self.recompute)
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @property
    def fuses(self) -> bool:
        return self.device.type == "cpu" and self.precision == "bf16"

    def graphs(self, net: nn.Module) -> bool:
        """Whether a step can be one CUDA graph: of our own networks, which do the same at each step, computed once."""
        return self.device.type == "cuda" and isinstance(net, ResidualNetwork) and self.recompute == "none"

    def describe(self, parts: int = 1) -> dict[str, Json]:
        """For the record of a run whose batch has so many parts."""
        return {
            "residua": version("residua"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {platform.machine()}",
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "kernels": kernels() if self.fuses and parts >= self.group.size else "PyTorch's",
            "recompute": self.recompute,
            **({"processes": self.group.size} if self.group.size > 1 else {}),
        }


def machine(precision: Precision = "auto", recompute: Recompute = "none", group: Group = ALONE) -> Machine:
    """This machine.  `auto` is bf16 where it is a native speed: on a GPU from Ampere on, on a CPU with bf16 instructions."""
    if precision not in ("auto", "bf16", "fp32"):
        raise UsageError(f"no precision {precision!r}: choose from auto, bf16, fp32")
    if recompute not in RECOMPUTES:
        raise unknown("way to recompute", recompute, RECOMPUTES)
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.device("cuda")
        repeat_bits()
    else:
        native = cpu_has_bf16()
        device = torch.device("cpu")
        keep_freed_memory()
    if precision == "auto":
        precision = "bf16" if native else "fp32"
    return Machine(device, precision, recompute, group)


def repeat_bits() -> None:
    """Make convolutions on a GPU give the same bits each time, and in fp32 multiply fp32, not TF32; for the whole process."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself (AVX512-BF16 or AMX); emulated, bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_memory() -> None:
    """Let glibc keep freed activations for the next step rather than return their pages to the system (8 % of a step)."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
