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

from residua.data.read import read
from residua.spec.dataset import dataset


def files(count: int) -> list[bytes]:
    """CIFAR-10's test images as PNG."""
    found = []
    for pixels in read(dataset("cifar10"), "test").pixels[:count]:
        file = BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
        found.append(file.getvalue())
    return found


def ask(connection: HTTPConnection, body: bytes) -> tuple[int, dict[str, object]]:
    connection.request("POST", "/predict", body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def client(
    port: int, bodies: list[bytes], first: list[str], turns: range, until: float, seconds: list[float], wrong: list[str]
) -> None:
    """Ask by one connection, image after image; notes how long each took, and what went wrong."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for turn in turns:
        if time.monotonic() > until:
            wrong.append("out of time")
            return
        begun = time.perf_counter()
        try:
            status, found = ask(connection, bodies[turn % len(bodies)])
        except Exception as error:
            wrong.append(repr(error))
            connection.close()
            continue
        seconds.append(time.perf_counter() - begun)
        if status != 200 or found["class"] != first[turn % len(bodies)]:
            wrong.append(f"{status} {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--limit", type=float, default=900.0)
    arguments = parser.parse_args()
    bodies = files(arguments.images)
    command = [sys.executable, "-m", "residua", "serve", str(arguments.model), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline().strip()
        print(said)
        port = int(said.split("  ")[0].rpartition(":")[2])
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        first = [str(ask(connection, body)[1]["class"]) for body in bodies]
        connection.close()
        until, seconds, wrong, begun = time.monotonic() + arguments.limit, [], [], time.perf_counter()
        shares = [range(i, arguments.requests, arguments.clients) for i in range(arguments.clients)]
        clients = [threading.Thread(target=client, args=(port, bodies, first, share, until, seconds, wrong)) for share in shares]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        took = time.perf_counter() - begun
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    seconds.sort()
    p50, p99 = (1000 * seconds[int(share * len(seconds))] for share in (0.5, 0.99))
    print(f"{len(seconds):,} answers to {arguments.clients} clients in {took:.1f} s: {len(seconds) / took:.0f} a second")
    print(f"errors: {len(wrong)}{': ' + wrong[0] if wrong else ''}")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * seconds[-1]:.1f} ms")
    print("\n".join(line for line in metrics.splitlines() if "batch_size" in line and not line.startswith("#")))
    print(f"the server left with code {code}")
    sys.exit(bool(wrong or code))


if __name__ == "__main__":
    main()
