"""Limits of the size of a network, checked by arithmetic when its value is made.

A file or a name can describe a network that no machine can hold.  It is refused before anything is
planned or built from it.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import prod

from residua.errors import UsageError

MAX_LAYERS = 20_000  # of a network; to build so many takes a minute
MAX_PARAMETERS = 2 * 10**9  # of a network, 8 GB in fp32; our choice, 16 times the papers' largest
MAX_INPUT_VALUES = 5 * 10**7  # of one image: 4,000 x 4,000 pixels, 3 channels; our choice
MAX_STRIDE = 1_024  # pixels; our choice
MAX_NAME_LENGTH = 1_000  # characters, of a network or a class; our choice
LARGEST_WRITTEN = 10**15  # larger numbers are not written out in messages


def check_layer_count(layers: int) -> None:
    """Raise UsageError if a network of this many layers would be too deep to build."""
    if layers > MAX_LAYERS:
        raise UsageError(
            f"a network of {format_number_or_bound(layers)} layers is too deep: "
            f"choose at most {MAX_LAYERS:,}"
        )


def check_stride(stride: int) -> None:
    """Raise UsageError unless 1 <= stride <= MAX_STRIDE."""
    if not 1 <= stride <= MAX_STRIDE:
        raise UsageError(f"stride {stride:,} is invalid: give 1 to {MAX_STRIDE:,}")


def check_classifier_size(name: str, parameters: int, input_shape: tuple[int, ...]) -> None:
    """Raise UsageError if a classifier, one of its images or its name is too large."""
    check_name_lengths([name], "a network")
    if parameters > MAX_PARAMETERS:
        raise UsageError(
            f"a network of {format_number_or_bound(parameters)} parameters is too large: choose a "
            f"smaller width or depth, or fewer classes, for at most {MAX_PARAMETERS:,}"
        )
    if prod(input_shape) > MAX_INPUT_VALUES:
        raise UsageError(
            f"an input of {format_number_or_bound(prod(input_shape))} values is too large: "
            f"choose a smaller image size, for at most {MAX_INPUT_VALUES:,}"
        )


def check_name_lengths(names: Iterable[str], noun: str) -> None:
    """Raise UsageError if a name of `noun`, e.g. "a class", is longer than `MAX_NAME_LENGTH`."""
    for name in names:
        if len(name) > MAX_NAME_LENGTH:
            raise UsageError(
                f"the name of {noun} has {len(name):,} characters: give at most {MAX_NAME_LENGTH:,}"
            )


def format_number_or_bound(number: int) -> str:
    """Format a lower bound of `number`, at most `LARGEST_WRITTEN`, as `at least 300,000`."""
    return f"at least {min(number, LARGEST_WRITTEN):,}"


def count_branch_weights(
    kernels: tuple[int, ...], inputs: int, inner_width: int, outputs: int, groups: int = 1
) -> int:
    """Count the weights of a branch's layers, given the channels before, inside and after it.

    All layers but the first and the last have `groups` groups.
    """
    channels = pairwise([inputs, *[inner_width] * (len(kernels) - 1), outputs])
    layer_groups = [1, *[groups] * (len(kernels) - 2), 1][: len(kernels)]
    return sum(
        kernel**2 * fan_in * fan_out // layer_group
        for kernel, layer_group, (fan_in, fan_out) in zip(
            kernels, layer_groups, channels, strict=True
        )
    )
