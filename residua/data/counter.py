"""Random bits as a function of integers: no generator, hence no state to save or to fast-forward."""

import torch
from torch import Tensor

MASK = (1 << 64) - 1


def signed(bits: int) -> int:
    """The 64-bit integer of the same bits that torch's int64 holds."""
    bits &= MASK
    return bits - (1 << 64) if bits >> 63 else bits


GOLDEN = signed(0x9E3779B97F4A7C15)


def shift(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): each input bit changes about half of the output bits."""
    x = (x ^ shift(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shift(x, 27)) * signed(0x94D049BB133111EB)
    return x ^ shift(x, 31)


def bits(*keys: int | Tensor) -> Tensor:
    """63 random bits as int64 >= 0, for the keys (a seed, an epoch, sample indices (n,)); the same on every device."""
    x: int | Tensor = 0  # as long as keys are numbers, so that a device is told of them without waiting for it
    for key in keys:
        x = x + (key if isinstance(key, Tensor) else signed(key))
        x = mix(x + GOLDEN) if isinstance(x, Tensor) else int(mix(torch.tensor(signed(x + GOLDEN))))
    return shift(x if isinstance(x, Tensor) else torch.tensor(x), 1)


def permutation(count: int, *keys: int) -> Tensor:
    """A random order of range(count), (count,) int64."""
    return bits(*keys, torch.arange(count)).argsort(stable=True)
