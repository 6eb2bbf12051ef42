"""Timing of several contenders in turn, round after round.

The speed of a machine changes over minutes; contenders that take turns meet the same changes, so
that ratios of their medians are fair.
"""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Measurement = TypeVar("Measurement")


def measure_seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_in_turn(
    contenders: Mapping[str, Callable[[], Measurement]], rounds: int, warm_up_rounds: int = 0
) -> dict[str, list[Measurement]]:
    """Call every contender once per round; returns what it measured in each round.

    Measurements of the first `warm_up_rounds`, which are additional, are dropped.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in contenders}
    for round_number in range(warm_up_rounds + rounds):
        for name, measure in contenders.items():
            measurement = measure()
            if round_number >= warm_up_rounds:
                measurements[name].append(measurement)
    return measurements
