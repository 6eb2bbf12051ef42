"""`residua serve` under attack, on the loopback interface of this machine; ends within 90 seconds.

At the same time, 200 honest clients send one image after the other, 1,024 connections send their
headers one byte a second, and 60 connections send 19.9 MB of a body that never ends; connections
that the server closes are opened again.  Meanwhile one more honest client sends images over new
connections.  Afterwards 32 clients send 10,000 requests.  Reported are latencies, refusals and the
server's resident memory.  Attackers and clients are processes of their own, and share the machine
with the server.

    python benchmarks/serve_attack.py [MODEL]
"""

import argparse
import asyncio
import multiprocessing
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

import residua
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.net.model_folder import save_pretrained

HONEST_CLIENTS, SLOW_HEADERS, UNFINISHED_BODIES = 200, 1024, 60
BODY_BYTES = 19_900_000
ATTACK_SECONDS, LOAD_SECONDS = 25.0, 40.0  # the longest durations
LOAD_CLIENTS, LOAD_REQUESTS = 32, 10_000


@dataclass(slots=True)
class ClientResults:
    """What clients saw: latencies of answers in seconds, and counts of statuses and errors."""

    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        latencies = sorted(self.latencies) or [float("nan")]
        p50, p99 = (1000 * latencies[int(share * len(latencies))] for share in (0.5, 0.99))
        outcomes = ", ".join(f"{name}: {count:,}" for name, count in self.outcomes.most_common())
        return (
            f"{outcomes}; p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {1000 * latencies[-1]:.0f} ms"
        )


def make_image() -> bytes:
    """A PNG of random colours, of the size of CIFAR's images."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def save_untrained_model(folder: Path) -> None:
    data = get_dataset("cifar10")
    net = residua.create_model("cifar-resnet20")
    config = ModelConfig(
        network=net.plan.network, classes=data.classes, mean=data.mean, std=data.std
    )
    save_pretrained(net, config, folder)


def format_head(body_bytes: int) -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\n\r\n"
    ).encode()


async def post_image(port: int, image: bytes, results: ClientResults) -> None:
    """Send one image over a new connection."""
    started_at = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(format_head(len(image)) + image)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.close()
    except (OSError, asyncio.IncompleteReadError) as error:
        results.outcomes[type(error).__name__] += 1
        return
    results.latencies.append(time.perf_counter() - started_at)
    results.outcomes[head[9:12].decode()] += 1


async def send_images(
    port: int, clients: int, seconds: float, max_requests: float, pause: float = 0.0
) -> ClientResults:
    """Send images from so many clients at once, one after the other each."""
    results, image, sent = ClientResults(), make_image(), 0
    deadline = time.monotonic() + seconds

    async def run_client() -> None:
        nonlocal sent
        while time.monotonic() < deadline and sent < max_requests:
            sent += 1
            await post_image(port, image, results)
            await asyncio.sleep(pause)

    await asyncio.gather(*(run_client() for _ in range(clients)))
    return results


async def drip_headers(port: int) -> None:
    """Send headers that do not end, one byte a second."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    while True:
        await asyncio.sleep(1)
        writer.write(b"x")
        await writer.drain()


async def send_unfinished_body(port: int) -> None:
    """Send a body without its end, and wait until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(format_head(BODY_BYTES + 1))
    for _ in range(BODY_BYTES // 100_000):
        writer.write(bytes(100_000))
        await writer.drain()
    await reader.read()
    await asyncio.sleep(1)


async def attack_server(port: int, seconds: float) -> None:
    async def repeat(attack) -> None:
        while True:
            with suppress(OSError):
                await attack(port)
            await asyncio.sleep(0.1)

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(
                *(repeat(drip_headers) for _ in range(SLOW_HEADERS)),
                *(repeat(send_unfinished_body) for _ in range(UNFINISHED_BODIES)),
            )


def run_attackers(port: int, seconds: float) -> None:
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(attack_server(port, seconds))


def run_honest_clients(answer: Connection, *arguments: float) -> None:
    answer.send(asyncio.run(send_images(*arguments)))


def start_clients(*arguments: float) -> Connection:
    """Run `send_images` in a process; its results arrive on the returned connection."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    start_process(run_honest_clients, sender, *arguments)
    return receiver


def start_process(function, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(
        target=function, args=arguments, daemon=True
    )
    process.start()
    return process


def read_memory(pid: int, key: str = "VmRSS") -> float:
    """The server's resident memory in MB; with the key VmHWM, its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) / 1000


def fetch_text(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def measure_attack(port: int, pid: int) -> ClientResults:
    """Attack the server and return what one more honest client saw."""
    attackers = start_process(run_attackers, port, ATTACK_SECONDS)
    honest = start_clients(port, HONEST_CLIENTS, ATTACK_SECONDS - 5, float("inf"))
    deadline = time.monotonic() + 15
    while count_connections(port) < SLOW_HEADERS and time.monotonic() < deadline:
        time.sleep(0.2)
    print(f"open connections: {count_connections(port):.0f}")
    last = asyncio.run(send_images(port, 1, 10, float("inf"), pause=0.05))
    print(f"client {HONEST_CLIENTS + 1}: {last.describe()}")
    print(f"clients 1 to {HONEST_CLIENTS}: {honest.recv().describe()}")
    print(f"memory during the attack: {read_memory(pid):.0f} MB")
    attackers.join(ATTACK_SECONDS)
    return last


def count_connections(port: int) -> float:
    lines = fetch_text(port, "/metrics").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("residua_connections"))


def measure_server(port: int, pid: int) -> bool:
    """Run all measurements; returns whether every answer was right."""
    asyncio.run(send_images(port, LOAD_CLIENTS, 10, 2000))  # engines keep memory per batch size
    print(f"memory before: {read_memory(pid):.0f} MB")
    last = measure_attack(port, pid)
    print(
        f"memory after the attack: {read_memory(pid):.0f} MB, peak {read_memory(pid, 'VmHWM'):.0f}"
    )
    load, memories = start_clients(port, LOAD_CLIENTS, LOAD_SECONDS, LOAD_REQUESTS), []
    while not load.poll(1):
        memories.append(f"{read_memory(pid):.0f}")
    results = load.recv()
    print(f"{LOAD_REQUESTS:,} requests of {LOAD_CLIENTS} clients: {results.describe()}")
    print(f"memory in each 5th second of them: {' '.join(memories[::5])} MB")
    for line in fetch_text(port, "/metrics").splitlines():
        if line.startswith(("residua_refused", "residua_connections", "residua_body_bytes")):
            print(line)
    return set(last.outcomes) == set(results.outcomes) == {"200"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="default: an untrained ResNet-20")
    model = parser.parse_args().model
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            model = Path(folder, "model")
            save_untrained_model(model)
        command = [sys.executable, "-m", "residua", "serve", str(model), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            startup_line = server.stdout.readline().strip()
            print(startup_line)
            port = int(startup_line.split("  ")[0].rpartition(":")[2])
            is_right = measure_server(port, server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            exit_code = server.wait(60)
    print(f"exit code of the server: {exit_code}")
    sys.exit(bool(not is_right or exit_code))


if __name__ == "__main__":
    main()
