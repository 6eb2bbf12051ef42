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
from residua.config.memory import (
    RECOMPUTE_MODES,
    RecomputeMode,
    estimate_cpu_step_bytes,
    estimate_step_bytes,
)
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipe import recipe
from residua.training.machine import Precision, detect_machine
from residua.training.step import TrainingStep

MIB = 2**20


def read_peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most: of a GPU, or resident.  Not `getrusage`, which starts from the parent's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_step_memory(
    model: str,
    recompute: RecomputeMode,
    precision: Precision,
    batch: int,
    steps: int,
    connection: Connection,
) -> None:
    """Send peak bytes above the start and the seconds of each step after the first."""
    this_machine = detect_machine(precision, recompute)
    step = TrainingStep(
        this_machine.prepare_model(create_model(model)), recipe("he2015").optimiser, this_machine
    )
    images, labels = (
        torch.randn(batch, 3, 32, 32).to(this_machine.device),
        (torch.arange(batch) % 10).to(this_machine.device),
    )
    step(images[:1], labels[:1], 0.0)
    if this_machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    peak_before, seconds = read_peak_memory(this_machine.device), []
    for _ in range(1 + steps):
        started = time.perf_counter()
        loss, _ = step(images, labels, 0.0)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    connection.send((read_peak_memory(this_machine.device) - peak_before, seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--models", nargs="+", default=["cifar-resnet20", "cifar-resnet110", "cifar-resnet1202"]
    )
    parser.add_argument("--ways", nargs="+", choices=RECOMPUTE_MODES, default=RECOMPUTE_MODES)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("peak memory is read from /proc, which only Linux has")
    this_machine, context, results = (
        detect_machine(arguments.precision),
        multiprocessing.get_context("spawn"),
        [],
    )
    print(
        f"{'model':20} {'way':6} {'foreseen':>12} {'measured':>12} {'ratio':>6} {'of plain':>8} {'s/step':>8} {'of plain':>8}"
    )
    for model in arguments.models:
        planned = plan(network(model))
        for way in arguments.ways:
            receiver, sender = context.Pipe()
            values = (model, way, arguments.precision, arguments.batch, arguments.steps, sender)
            process = context.Process(target=measure_step_memory, args=values)
            process.start()
            sender.close()
            measured_bytes, seconds = receiver.recv()
            process.join()
            estimate_bytes = (
                estimate_cpu_step_bytes
                if this_machine.device.type == "cpu"
                else estimate_step_bytes
            )
            estimated_bytes = estimate_bytes(
                planned, arguments.batch, way, this_machine.precision == "bf16"
            )
            row = {
                "model": model,
                "layers": planned.depth,
                "way": way,
                "foreseen": estimated_bytes,
                "measured": measured_bytes,
                "seconds": statistics.median(seconds),
            }
            results.append(row)
            baseline_row = next(
                (r for r in results if r["model"] == model and r["way"] == "none"), row
            )
            print(
                f"{model:20} {way:6} {estimated_bytes / MIB:8.1f} MiB {measured_bytes / MIB:8.1f} MiB {estimated_bytes / measured_bytes:6.2f} "
                f"{measured_bytes / baseline_row['measured']:8.3f} {row['seconds']:8.3f} {row['seconds'] / baseline_row['seconds']:8.2f}",
                flush=True,
            )
    seconds_per_layer = {
        (row["model"], row["way"]): row["seconds"] / row["layers"] for row in results
    }
    for way in arguments.ways:
        shallow, deep = ("cifar-resnet110", way), ("cifar-resnet1202", way)
        if {shallow, deep} <= set(seconds_per_layer):
            print(
                f"seconds a layer at 1,202 against 110 layers, {way}: {seconds_per_layer[deep] / seconds_per_layer[shallow]:.2f}"
            )
    print(
        json.dumps(
            {
                "machine": this_machine.describe_environment(),
                "batch": arguments.batch,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
