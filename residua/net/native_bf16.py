"""Detect whether a device multiplies bf16 matrices in hardware; if not, fp32 is faster."""

import torch


def device_has_bf16(device: torch.device) -> bool:
    """Return whether a device has hardware bf16.

    A GPU from Ampere on has it, and a CPU with AVX512-BF16 or AMX.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Return whether the CPU has bf16 matrix instructions (AVX512-BF16 or AMX).

    False if this PyTorch cannot list the CPU's capabilities.
    """
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
