"""Counters and histograms of a server, in Prometheus' text format."""

from bisect import bisect_left
from collections import Counter

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
BATCH_SIZE_BOUNDS = (1, 2, 4, 8, 16, 32)
REFUSAL_REASONS = (
    "connection_limit",  # too many connections
    "head_timeout",  # the headers did not arrive in time
    "invalid_http",
    "host",  # not among the allowed ones
    "origin",  # not among the allowed ones
    "queue_full",
    "body_timeout",  # the body did not arrive in time
    "body_size",  # larger than allowed
    "body_memory",  # the bodies of all requests took too much memory
)


class Histogram:
    """Counts values in buckets with the given upper bounds, and sums them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.bucket_counts = [0] * (len(bounds) + 1)  # the last is for values above all bounds
        self.sum = 0.0

    def observe_value(self, value: float) -> None:
        self.bucket_counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def format_metric(self, name: str, help_text: str) -> str:
        """Format the histogram for Prometheus, with cumulative bucket counts."""
        cumulative_count, lines = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.bucket_counts, strict=True):
            cumulative_count += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {cumulative_count}')
        lines += [f"{name}_sum {self.sum:.6g}", f"{name}_count {cumulative_count}"]
        return format_prometheus_metric(name, "histogram", help_text, lines)


class ServerMetrics:
    """Metrics of a server: requests, refusals, latencies, memory, the queue, and batch sizes."""

    def __init__(self) -> None:
        self.requests_by_status: Counter[int] = Counter()
        self.refusals = Counter(dict.fromkeys(REFUSAL_REASONS, 0))
        self.latency = Histogram(LATENCY_BOUNDS)
        self.batch_sizes = Histogram(BATCH_SIZE_BOUNDS)
        self.waiting_images = 0
        self.open_connections = 0
        self.body_bytes = 0

    def count_refusal(self, reason: str) -> None:
        """Count a refusal; `reason` is one of `REFUSAL_REASONS`."""
        self.refusals[reason] += 1

    def format_prometheus_text(self) -> str:
        """Format all metrics, as the endpoint /metrics returns them."""
        requests = [
            f'residua_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.requests_by_status.items())
        ]
        refusals = [
            f'residua_refused_total{{reason="{reason}"}} {count}'
            for reason, count in sorted(self.refusals.items())
        ]
        sections = [
            format_prometheus_metric(
                "residua_requests_total",
                "counter",
                "Prediction requests by HTTP status.",
                requests,
            ),
            format_prometheus_metric(
                "residua_refused_total",
                "counter",
                "Requests and connections that were refused, by reason.",
                refusals,
            ),
            self.latency.format_metric(
                "residua_latency_seconds", "Seconds from a request's headers to its prediction."
            ),
            format_gauge("waiting", "Images accepted and not answered yet.", self.waiting_images),
            format_gauge("connections", "Open connections.", self.open_connections),
            format_gauge("body_bytes", "Bytes of request bodies in memory.", self.body_bytes),
            self.batch_sizes.format_metric(
                "residua_batch_size", "Images per batch that was classified."
            ),
        ]
        return "".join(sections)


def format_prometheus_metric(name: str, kind: str, help_text: str, sample_lines: list[str]) -> str:
    """Format one metric for Prometheus: its HELP and TYPE lines, then its samples."""
    return "\n".join([f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *sample_lines, ""])


def format_gauge(name: str, help_text: str, value: int) -> str:
    """Format the metric `residua_{name}`, a value that may rise and fall, for Prometheus."""
    full_name = f"residua_{name}"
    return format_prometheus_metric(full_name, "gauge", help_text, [f"{full_name} {value}"])
