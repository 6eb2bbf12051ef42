"""What a server has done, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def section(self, name: str, said: str) -> str:
        total, lines = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return section(name, "histogram", said, [*lines, f"{name}_sum {self.sum:.6g}", f"{name}_count {total}"])


class Metrics:
    """Requests by status, how long predictions took, how many wait now, and how many images were in a batch."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.latency, self.batches = Histogram(SECONDS), Histogram(SIZES)
        self.waiting = 0

    def text(self) -> str:
        requests = [f'residua_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.requests.items())]
        parts = [
            section("residua_requests_total", "counter", "Requests for a prediction, by status.", requests),
            self.latency.section("residua_latency_seconds", "From a request's headers to its answer."),
            section("residua_waiting", "gauge", "Images that are not answered yet.", [f"residua_waiting {self.waiting}"]),
            self.batches.section("residua_batch_size", "Images that were classified at once."),
        ]
        return "".join(parts)


def section(name: str, kind: str, said: str, lines: list[str]) -> str:
    return "\n".join([f"# HELP {name} {said}", f"# TYPE {name} {kind}", *lines, ""])
