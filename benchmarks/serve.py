"""`residua serve` under load: requests from many clients at once over the loopback, each answer held against the first.

The clients share the machine with the server.  It stops by itself, at the latest after --limit seconds.

    RESIDUA_DATA=FOLDER python benchmarks/serve.py MODEL [--requests 10000] [--clients 32]
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

from PIL import Image

from residua.config.dataset import get_dataset
from residua.data.read import read_split


def encode_cifar10_pngs(count: int) -> list[bytes]:
    """CIFAR-10's test images as PNG."""
    pngs = []
    for pixels in read_split(get_dataset("cifar10"), "test").pixels[:count]:
        file = BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
        pngs.append(file.getvalue())
    return pngs


def post_prediction(connection: HTTPConnection, body: bytes) -> tuple[int, dict[str, object]]:
    connection.request("POST", "/predict", body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def run_client(
    port: int,
    pngs: list[bytes],
    expected_classes: list[str],
    request_numbers: range,
    deadline: float,
    latencies: list[float],
    errors: list[str],
) -> None:
    """Ask by one connection, image after image; notes how long each took, and what went wrong."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for turn in request_numbers:
        if time.monotonic() > deadline:
            errors.append("out of time")
            return
        started = time.perf_counter()
        try:
            status, answer = post_prediction(connection, pngs[turn % len(pngs)])
        except Exception as error:
            errors.append(repr(error))
            connection.close()
            continue
        latencies.append(time.perf_counter() - started)
        if status != 200 or answer["class"] != expected_classes[turn % len(pngs)]:
            errors.append(f"{status} {answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        expected_classes = [str(post_prediction(connection, body)[1]["class"]) for body in pngs]
        connection.close()
        deadline, latencies, errors, started = (
            time.monotonic() + arguments.limit,
            [],
            [],
            time.perf_counter(),
        )
        requests_by_client = [
            range(i, arguments.requests, arguments.clients) for i in range(arguments.clients)
        ]
        clients = [
            threading.Thread(
                target=run_client,
                args=(port, pngs, expected_classes, share, deadline, latencies, errors),
            )
            for share in requests_by_client
        ]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        elapsed = time.perf_counter() - started
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
    finally:
        server.send_signal(signal.SIGTERM)
        exit_code = server.wait(60)
    latencies.sort()
    p50, p99 = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
    print(
        f"{len(latencies):,} answers to {arguments.clients} clients in {elapsed:.1f} s: {len(latencies) / elapsed:.0f} a second"
    )
    print(f"errors: {len(errors)}{': ' + errors[0] if errors else ''}")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * latencies[-1]:.1f} ms")
    print(
        "\n".join(
            line
            for line in metrics.splitlines()
            if "batch_size" in line and not line.startswith("#")
        )
    )
    print(f"the server left with code {exit_code}")
    sys.exit(bool(errors or exit_code))


if __name__ == "__main__":
    main()
