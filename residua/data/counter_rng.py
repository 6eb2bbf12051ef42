"""Random bits as a pure function of integer keys.

There is no generator, hence no state to save in a checkpoint or to fast-forward on resuming: the
bits of any sample of any epoch can be computed directly.  The keys are a seed, a `RandomStream`
and the indices of what the bits are for, such as an epoch and an image.
"""

from enum import IntEnum

import torch
from torch import Tensor

UINT64_MASK = (1 << 64) - 1


class RandomStream(IntEnum):
    """The purposes of random bits, such as crops: different numbers give independent bits.

    A member is the second key of `random_bits_from_keys`, after the seed.  Its number must not
    change, because that would change the batches of every seed.  Two purposes share a number only
    if no computation needs both: those of VLAD and of lesions share numbers with those of training
    batches, because VLAD is fitted without batches and lesions do not train.
    """

    # of training batches
    ORDER = 0
    CROP = 1
    FLIP = 2
    COLOUR = 3
    CLASS_ORDER = 4
    CUTOUT = 5
    MIX = 6
    MIX_PARTNER = 7
    TRIVIAL_AUGMENT = 8
    EXTRA = 9
    RAND_AUGMENT = 10
    PCA_COLOUR = 11
    ERASING = 12
    # of fitting VLAD, which never augments
    VLAD_PATCH_IMAGE = 3
    VLAD_PATCH_POSITION = 4
    # of lesions, which draw units and paths of a trained network
    LESION_DELETION = 0
    LESION_SWAP = 1
    LESION_PATH = 2


def to_signed_int64(value: int) -> int:
    """Reinterpret the low 64 bits of an integer as a signed integer, as torch's int64 does."""
    value &= UINT64_MASK
    return value - (1 << 64) if value >> 63 else value


GOLDEN_GAMMA = to_signed_int64(0x9E3779B97F4A7C15)


def logical_shift_right(x: Tensor, places: int) -> Tensor:
    """Shift int64 bits to the right and fill with zeros; torch's `>>` repeats the sign bit."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def apply_splitmix64_finaliser(x: Tensor) -> Tensor:
    """Apply the finaliser of splitmix64 (Steele, Lea & Flood 2014) to int64 values.

    Flipping one input bit flips about half of the output bits.
    """
    x = (x ^ logical_shift_right(x, 30)) * to_signed_int64(0xBF58476D1CE4E5B9)
    x = (x ^ logical_shift_right(x, 27)) * to_signed_int64(0x94D049BB133111EB)
    return x ^ logical_shift_right(x, 31)


def random_bits_from_keys(*keys: int | Tensor) -> Tensor:
    """Return 63 random bits for the given keys, as int64 >= 0; they are the same on every device.

    Keys are integers or tensors of integers.  For example, a seed, a stream, an epoch and sample
    indices (n,) give bits (n,).
    """
    # Python integers for as long as the keys are integers: they reach a GPU without a
    # synchronisation.
    x: int | Tensor = 0
    for key in keys:
        x = x + (key if isinstance(key, Tensor) else to_signed_int64(key))
        x = (
            apply_splitmix64_finaliser(x + GOLDEN_GAMMA)
            if isinstance(x, Tensor)
            else int(apply_splitmix64_finaliser(torch.tensor(to_signed_int64(x + GOLDEN_GAMMA))))
        )
    return logical_shift_right(x if isinstance(x, Tensor) else torch.tensor(x), 1)


def random_permutation(count: int, *keys: int, device: torch.device | None = None) -> Tensor:
    """Return the random permutation of range(count) for the given keys, as int64 (count,).

    It is computed on `device`, by default the CPU, and is the same on every device.
    """
    return random_bits_from_keys(*keys, torch.arange(count, device=device)).argsort(stable=True)
