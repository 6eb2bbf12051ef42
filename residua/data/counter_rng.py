"""Random bits as a function of integers: no generator, hence no state to save or to fast-forward."""

import torch
from torch import Tensor

UINT64_MASK = (1 << 64) - 1


def to_signed_int64(value: int) -> int:
    """The 64-bit integer of the same bits that torch's int64 holds."""
    value &= UINT64_MASK
    return value - (1 << 64) if value >> 63 else value


GOLDEN_GAMMA = to_signed_int64(0x9E3779B97F4A7C15)


def logical_shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def apply_splitmix64_finaliser(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): each input bit changes about half of the output bits."""
    x = (x ^ logical_shift_right(x, 30)) * to_signed_int64(0xBF58476D1CE4E5B9)
    x = (x ^ logical_shift_right(x, 27)) * to_signed_int64(0x94D049BB133111EB)
    return x ^ logical_shift_right(x, 31)


def random_bits_from_keys(*keys: int | Tensor) -> Tensor:
    """63 random bits as int64 >= 0, for the keys (a seed, an epoch, sample indices (n,)); the same on every device."""
    x: int | Tensor = (
        0  # as long as keys are numbers, so that a device is told of them without waiting for it
    )
    for key in keys:
        x = x + (key if isinstance(key, Tensor) else to_signed_int64(key))
        x = (
            apply_splitmix64_finaliser(x + GOLDEN_GAMMA)
            if isinstance(x, Tensor)
            else int(apply_splitmix64_finaliser(torch.tensor(to_signed_int64(x + GOLDEN_GAMMA))))
        )
    return logical_shift_right(x if isinstance(x, Tensor) else torch.tensor(x), 1)


def random_permutation(count: int, *keys: int) -> Tensor:
    """A random order of range(count), (count,) int64."""
    return random_bits_from_keys(*keys, torch.arange(count)).argsort(stable=True)
