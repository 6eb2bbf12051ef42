"""Divide the time of training steps into parts, from the events of a trace of torch.profiler.

On a CPU, each operator's own time counts for the part in whose range, or inside whose operator, it
runs.  On a GPU, a kernel counts for the part that launched it.  A CUDA graph launches all kernels
at once, so its kernels are looked up in a trace of the same step without a graph.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONVOLUTION, BATCHNORM, OTHER = "convolution", "batch normalisation", "other layers"
OPTIMISER, BATCHES, WAITING = "optimiser", "batches", "waiting"
PARTS = (CONVOLUTION, BATCHNORM, OTHER, OPTIMISER, BATCHES, WAITING)
"""The parts of a step, in the order in which they are listed."""

STEP_RANGE, BATCH_RANGE, UPDATE_RANGE = "residua: step", "residua: batch", "residua: update"
# torch.optim records the second one by itself
RANGES = {BATCH_RANGE: BATCHES, UPDATE_RANGE: OPTIMISER, "Optimizer.step#": OPTIMISER}

OPERATION_PATTERNS = {
    BATCHNORM: re.compile(r"batch_?norm", re.IGNORECASE),
    CONVOLUTION: re.compile(r"convol|conv\dd|_conv_|croppedconv", re.IGNORECASE),
    OPTIMISER: re.compile(r"_foreach_|_fused_"),
}
KERNEL_PATTERNS = {
    BATCHNORM: re.compile(
        r"batch_?norm|\bbn_(fw|bw)"
        r"|^(sum_batch_kernel|normalise_kernel|sum_gradients_kernel|input_gradient_kernel)",
        re.IGNORECASE,
    ),
    OPTIMISER: re.compile(r"multi_tensor_apply|fused_(sgd|adam)", re.IGNORECASE),
    CONVOLUTION: re.compile(
        r"convol|implicit_gemm|fprop|dgrad|wgrad|winograd|cudnn|depthwise|nchwtonhwc|nhwctonchw"
        r"|^(spread_gradient|sum_weight_gradient|add_partial_sums)",
        re.IGNORECASE,
    ),
}
HOST_CATEGORIES = {"cpu_op", "user_annotation", "cuda_runtime", "cuda_driver"}
DEVICE_CATEGORIES = {"kernel", "gpu_memcpy", "gpu_memset"}

TraceEvent = Mapping[str, Any]
"""An event of a Chrome trace: "name", "cat", "ts" and "dur" (microseconds), "tid", "args"."""


def classify_operation(name: str) -> str | None:
    """Return the part that an operator of PyTorch belongs to by its name, if its name tells."""
    for part, pattern in OPERATION_PATTERNS.items():
        if pattern.search(name):
            return part
    return None


def classify_kernel(name: str) -> str:
    """Return the part that a GPU kernel belongs to by its name; products of matrices are others."""
    for part, pattern in KERNEL_PATTERNS.items():
        if pattern.search(name):
            return part
    return OTHER


@dataclass(slots=True)
class HostEvent:
    """An event on the host: its part, and its times in microseconds.

    name        the operator, range or call of the CUDA runtime
    part        None if neither its name nor those of the events around it tell
    is_range    whether the part is that of a range, which holds for everything inside
    own         time that no inner event covers
    """

    name: str
    start: float
    end: float
    part: str | None
    is_range: bool
    own: float
    correlation: int | None


def list_host_events(events: Iterable[TraceEvent]) -> list[HostEvent]:
    """List the events of all threads of the host, with their parts."""
    by_thread: dict[object, list[TraceEvent]] = {}
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in HOST_CATEGORIES:
            by_thread.setdefault(event.get("tid"), []).append(event)
    return [item for thread in by_thread.values() for item in nest_host_events(thread)]


def nest_host_events(events: list[TraceEvent]) -> Iterator[HostEvent]:
    """Yield the events of one thread; an inner one belongs to the part around it by default."""
    stack: list[HostEvent] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        name, start, duration = event["name"], event["ts"], event["dur"]
        while stack and stack[-1].end <= start:
            yield stack.pop()
        if stack:
            stack[-1].own -= min(duration, stack[-1].end - start)
        outer = stack[-1] if stack else None
        part, is_range = find_range_part(name), True
        if part is None and outer is not None and outer.is_range:
            part = outer.part
        elif part is None:
            part, is_range = classify_operation(name) or (outer.part if outer else None), False
        correlation = event.get("args", {}).get("correlation")
        stack.append(
            HostEvent(name, start, start + duration, part, is_range, duration, correlation)
        )
    yield from stack


def find_range_part(name: str) -> str | None:
    """Return the part of a range by its name, or None if it is not the range of a part."""
    return next((part for start, part in RANGES.items() if name.startswith(start)), None)


def list_step_starts(host_events: Iterable[HostEvent]) -> list[float]:
    """List the times at which the steps of a trace begin on the host, in order."""
    return sorted(event.start for event in host_events if event.name == STEP_RANGE)


def sum_cpu_parts(events: Sequence[TraceEvent]) -> dict[str, float]:
    """Sum the time of each part of the steps on a CPU, in microseconds.

    Waiting is the time of a step in which no operator runs.
    """
    steps = [event for event in events if event.get("name") == STEP_RANGE]
    first, last = [min(e["ts"] for e in steps), max(e["ts"] + e["dur"] for e in steps)]
    threads = {event["tid"] for event in steps}
    times = dict.fromkeys(PARTS, 0.0)
    for event in list_host_events(event for event in events if event.get("tid") in threads):
        if event.name == STEP_RANGE:
            times[WAITING] += event.own
        elif first <= event.start < last:
            times[event.part or OTHER] += event.own
    return times


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """A kernel, copy or fill of a GPU, with its times in microseconds.

    key   its name, its launch configuration and its number among those of the same step
    part  None if a CUDA graph launched it, or if nobody knows what did
    """

    key: tuple[object, ...]
    name: str
    start: float
    end: float
    part: str | None


def list_device_work(events: Iterable[TraceEvent]) -> list[DeviceWork]:
    """List the work of a GPU in the order in which it started."""
    events = list(events)
    host_events = list_host_events(events)
    starts = list_step_starts(host_events)
    launches = {event.correlation: event for event in host_events if event.correlation is not None}
    counts: Counter[tuple[object, ...]] = Counter()
    work = []
    for event in sorted(
        (e for e in events if e.get("ph") == "X" and e.get("cat") in DEVICE_CATEGORIES),
        key=lambda event: float(event["ts"]),
    ):
        name, arguments = event["name"], event.get("args", {})
        launch = launches.get(arguments.get("correlation"))
        step = bisect_right(starts, launch.start if launch else event["ts"])
        key = (name, str(arguments.get("grid")), str(arguments.get("block")))
        counts[step, *key] += 1
        is_graph = launch is not None and "GraphLaunch" in launch.name
        part = choose_launched_part(name, launch) if launch and not is_graph else None
        start = event["ts"]
        work.append(DeviceWork((*key, counts[step, *key]), name, start, start + event["dur"], part))
    return work


def choose_launched_part(name: str, launch: HostEvent) -> str:
    """Choose the part of a kernel by the range that starts it, by its name, or by its operator."""
    if launch.is_range and launch.part is not None:
        return launch.part
    by_name = classify_kernel(name)
    return by_name if by_name != OTHER else launch.part or OTHER


def sum_gpu_parts(
    events: Iterable[TraceEvent], events_without_graph: Iterable[TraceEvent] = ()
) -> dict[str, float]:
    """Sum the time in which a GPU works for each part, in microseconds, without waiting.

    `events_without_graph` are those of one step that launches its kernels one by one.  Batches that
    are assembled beside a step count only where nothing else runs.
    """
    reference = list_device_work(events_without_graph)
    parts_by_key = {work.key: work.part for work in reference}
    parts_by_name = {work.name: work.part for work in reversed(reference)}
    intervals: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    for work in list_device_work(events):
        part = work.part or parts_by_key.get(work.key) or parts_by_name.get(work.name)
        intervals[part or classify_kernel(work.name)].append((work.start, work.end))
    times, counted, busy = {}, [], 0.0
    for part in PARTS:
        counted += intervals[part]
        total = measure_union(counted)
        times[part], busy = total - busy, total
    return times


def measure_union(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
