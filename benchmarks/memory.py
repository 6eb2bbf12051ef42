"""Peak memory and time of a training step, each way to recompute, beside what was foreseen.

Each way has a process of its own: peak resident memory above that after one step of one image, which loads libraries and makes
momentum, so that weights, their gradients and data are in neither number.  Times are medians of steps after the first.  On a GPU
memory is what PyTorch has given out of it, and more `--steps` are wanted: the third makes a graph of itself where nothing is
recomputed.

    python benchmarks/memory.py [--batch 128] [--models cifar-resnet20 ...] [--steps 3] [--precision bf16] [--ways none sqrt]
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from residua import create_model
from residua.spec.memory import RECOMPUTES, Recompute, resident_bytes, step_bytes
from residua.spec.papers import network
from residua.spec.plan import plan
from residua.spec.recipe import recipe
from residua.train.machine import Precision, machine
from residua.train.step import Step

MIB = 2**20


def peak(device: torch.device) -> int:
    """Bytes that this process had at most: of a GPU, or resident.  Not `getrusage`, which starts from the parent's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(model: str, way: Recompute, precision: Precision, batch: int, steps: int, wire: Connection) -> None:
    """Send peak bytes above the start and the seconds of each step after the first."""
    here = machine(precision, way)
    step = Step(here.place(create_model(model)), recipe("he2015").optimiser, here)
    images, labels = torch.randn(batch, 3, 32, 32).to(here.device), (torch.arange(batch) % 10).to(here.device)
    step(images[:1], labels[:1], 0.0)
    if here.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, seconds = peak(here.device), []
    for _ in range(1 + steps):
        begun = time.perf_counter()
        loss, _ = step(images, labels, 0.0)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - begun)
    wire.send((peak(here.device) - before, seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--models", nargs="+", default=["cifar-resnet20", "cifar-resnet110", "cifar-resnet1202"])
    parser.add_argument("--ways", nargs="+", choices=RECOMPUTES, default=RECOMPUTES)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("peak memory is read from /proc, which only Linux has")
    here, context, results = machine(arguments.precision), multiprocessing.get_context("spawn"), []
    print(f"{'model':20} {'way':6} {'foreseen':>12} {'measured':>12} {'ratio':>6} {'of plain':>8} {'s/step':>8} {'of plain':>8}")
    for model in arguments.models:
        planned = plan(network(model))
        for way in arguments.ways:
            ours, theirs = context.Pipe()
            values = (model, way, arguments.precision, arguments.batch, arguments.steps, theirs)
            process = context.Process(target=measure, args=values)
            process.start()
            theirs.close()
            found, seconds = ours.recv()
            process.join()
            bytes_at_most = resident_bytes if here.device.type == "cpu" else step_bytes
            foreseen = bytes_at_most(planned, arguments.batch, way, here.precision == "bf16")
            row = {
                "model": model,
                "layers": planned.depth,
                "way": way,
                "foreseen": foreseen,
                "measured": found,
                "seconds": statistics.median(seconds),
            }
            results.append(row)
            plain = next((r for r in results if r["model"] == model and r["way"] == "none"), row)
            print(
                f"{model:20} {way:6} {foreseen / MIB:8.1f} MiB {found / MIB:8.1f} MiB {foreseen / found:6.2f} "
                f"{found / plain['measured']:8.3f} {row['seconds']:8.3f} {row['seconds'] / plain['seconds']:8.2f}",
                flush=True,
            )
    layer = {(row["model"], row["way"]): row["seconds"] / row["layers"] for row in results}
    for way in arguments.ways:
        shallow, deep = ("cifar-resnet110", way), ("cifar-resnet1202", way)
        if {shallow, deep} <= set(layer):
            print(f"seconds a layer at 1,202 against 110 layers, {way}: {layer[deep] / layer[shallow]:.2f}")
    print(json.dumps({"machine": here.describe(), "batch": arguments.batch, "results": results}))


if __name__ == "__main__":
    main()
