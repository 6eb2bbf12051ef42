"""Range checks that several config classes share."""

from contextlib import suppress
from math import inf
from numbers import Real

from residua.errors import UsageError


def check_range(
    value: float, name: str, low: float, high: float = inf, *, may_equal_high: bool = False
) -> None:
    """Raise UsageError unless low <= value < high, or value == high if `may_equal_high`."""
    if not low <= value < high and not (may_equal_high and value == high):
        word = "at most" if may_equal_high else "below"
        limit = f" and {word} {high}" if high < inf else ""
        raise UsageError(f"{name}={value} is invalid: it must be at least {low}{limit}")


def require_number(value: object, name: str) -> float:
    """Return `value` as a float; raises UsageError unless it is a number, and not a bool."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of a whole number with hundreds of digits
            return float(value)
    raise UsageError(f"{name}={repr(value)[:50]} is invalid: give a number")


def require_odd_kernels(kernels: tuple[int, ...]) -> None:
    """Raise UsageError unless there is at least one kernel size and all of them are odd.

    Equal padding on both sides can keep the shape of the input only if kernel sizes are odd.
    """
    if not kernels or any(side < 1 or side % 2 == 0 for side in kernels):
        raise UsageError(
            f"kernels {kernels} are invalid: give one or more odd sizes, "
            "because only odd kernels keep the shape in a 'same' convolution"
        )


def check_seed_range(seed: int) -> None:
    """Raise UsageError unless 0 <= seed < 2^32, the range that all random functions accept."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed} is invalid: give a whole number from 0 to {2**32 - 1}")
