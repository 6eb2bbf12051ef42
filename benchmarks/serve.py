"""`residua serve` under load: many concurrent clients on the loopback interface.

Every prediction is compared with the first one for the same image.  The clients share the machine
with the server.  The benchmark ends after --limit seconds at the latest.

    RESIDUA_DATA=FOLDER python benchmarks/serve.py MODEL [--requests 10000] [--clients 32]
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

from timing import measure_seconds

from residua.config.dataset import get_dataset
from residua.data.read import read_split
from residua.data.thumbnails import pixels_to_image


def encode_cifar10_pngs(count: int) -> list[bytes]:
    """The first `count` test images of CIFAR-10 as PNG files."""
    pngs = []
    for pixels in read_split(get_dataset("cifar10"), "test").pixels[:count]:
        file = BytesIO()
        pixels_to_image(pixels).save(file, "PNG")
        pngs.append(file.getvalue())
    return pngs


def post_prediction(connection: HTTPConnection, body: bytes) -> tuple[int, dict[str, object]]:
    """The status and the JSON of one prediction request."""
    connection.request("POST", "/predict", body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@dataclass(slots=True)
class LoadResults:
    """What the clients record; list.append is thread-safe."""

    latencies: list[float] = field(default_factory=list)  # seconds
    errors: list[str] = field(default_factory=list)


def run_client(
    port: int,
    pngs: list[bytes],
    expected_classes: list[str],
    request_numbers: range,
    deadline: float,
    results: LoadResults,
) -> None:
    """Send one request after the other over one connection, until `deadline` (time.monotonic)."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for request_number in request_numbers:
        if time.monotonic() > deadline:
            results.errors.append("out of time")
            return
        image_index = request_number % len(pngs)
        started = time.perf_counter()
        try:
            status, answer = post_prediction(connection, pngs[image_index])
        except Exception as error:
            results.errors.append(repr(error))
            connection.close()
            continue
        results.latencies.append(time.perf_counter() - started)
        if status != 200 or answer["class"] != expected_classes[image_index]:
            results.errors.append(f"{status} {answer}")


def run_clients(port: int, pngs: list[bytes], arguments: argparse.Namespace) -> LoadResults:
    """Send all requests, shared evenly by the clients, each on its own thread."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    expected_classes = [str(post_prediction(connection, body)[1]["class"]) for body in pngs]
    connection.close()
    results, deadline = LoadResults(), time.monotonic() + arguments.limit
    threads = []
    for i in range(arguments.clients):
        requests = range(i, arguments.requests, arguments.clients)
        values = (port, pngs, expected_classes, requests, deadline, results)
        threads.append(threading.Thread(target=run_client, args=values))
    elapsed = measure_seconds(lambda: run_threads(threads))
    count = len(results.latencies)
    print(
        f"{count:,} answers to {arguments.clients} clients in {elapsed:.1f} s: "
        f"{count / elapsed:.0f} per second"
    )
    return results


def run_threads(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fetch_metrics(port: int) -> str:
    """The server's metrics in Prometheus' text format."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--limit", type=float, default=900.0)
    arguments = parser.parse_args()
    pngs = encode_cifar10_pngs(arguments.images)
    command = [sys.executable, "-m", "residua", "serve", str(arguments.model), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        startup_line = server.stdout.readline().strip()
        print(startup_line)
        port = int(startup_line.split("  ")[0].rpartition(":")[2])
        results = run_clients(port, pngs, arguments)
        metrics = fetch_metrics(port)
    finally:
        server.send_signal(signal.SIGTERM)
        exit_code = server.wait(60)
    errors, latencies = results.errors, sorted(results.latencies)
    print(f"errors: {len(errors)}{': ' + errors[0] if errors else ''}")
    p50, p99 = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * latencies[-1]:.1f} ms")
    for line in metrics.splitlines():
        if "batch_size" in line and not line.startswith("#"):
            print(line)
    print(f"exit code of the server: {exit_code}")
    sys.exit(bool(errors or exit_code))


if __name__ == "__main__":
    main()
