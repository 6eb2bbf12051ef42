"""Peak memory and time of a training step for each recompute mode, against the estimated memory.

Each mode runs in its own process.  Its memory is the peak resident memory above that after a first
step on one image; that step loads libraries and creates the momentum, so weights, their gradients
and data are in neither number.  On a GPU the memory is what PyTorch has allocated.  Times are
medians of the steps after the first; on a GPU use more `--steps`, because the fourth captures a
CUDA graph.

    python benchmarks/memory.py [--batch 128] [--models cifar-resnet20 ...] [--steps 3]
                                [--precision bf16] [--ways none sqrt]
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from timing import measure_seconds

from residua import create_model, network, plan
from residua.config.memory import (
    RECOMPUTE_MODES,
    RecomputeMode,
    estimate_activation_peak_bytes,
    estimate_cpu_step_bytes,
)
from residua.config.recipes import recipe
from residua.training.machine import Machine, Precision, set_up_machine
from residua.training.step import TrainingStep

MIB = 2**20
Row = dict[str, str | int | float]


def read_peak_memory(device: torch.device) -> int:
    """Peak bytes of this process: allocated on the GPU, or resident.

    The resident peak is not read by `getrusage`, whose peak a child inherits from its parent.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_step_memory(
    model: str,
    recompute: RecomputeMode,
    precision: Precision,
    batch_size: int,
    steps: int,
    connection: Connection,
) -> None:
    """Send the peak bytes above the start, and the seconds of each step after the first."""
    machine = set_up_machine(precision, recompute)
    net = machine.prepare_model_in_place(create_model(model))
    step = TrainingStep(net, recipe("he2015").optimiser, machine)
    images = torch.randn(batch_size, 3, 32, 32).to(machine.device)
    labels = (torch.arange(batch_size) % 10).to(machine.device)
    step(images[:1], labels[:1], 0.0)
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    peak_before = read_peak_memory(machine.device)

    def run_step() -> None:
        loss, _ = step(images, labels, 0.0)
        loss.item()  # waits for the device

    seconds = [measure_seconds(run_step) for _ in range(1 + steps)]
    connection.send((read_peak_memory(machine.device) - peak_before, seconds[1:]))


def measure_mode(
    model: str, recompute: RecomputeMode, machine: Machine, arguments: argparse.Namespace
) -> Row:
    """Measure one recompute mode in a process of its own, next to its estimate."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    values = (model, recompute, arguments.precision, arguments.batch, arguments.steps, sender)
    process = context.Process(target=measure_step_memory, args=values)
    process.start()
    sender.close()
    measured_bytes, seconds = receiver.recv()
    process.join()
    planned = plan(network(model))
    estimate_bytes = (
        estimate_cpu_step_bytes if machine.device.type == "cpu" else estimate_activation_peak_bytes
    )
    return {
        "model": model,
        "layers": planned.depth,
        "way": recompute,
        "foreseen": estimate_bytes(
            planned, arguments.batch, recompute, machine.precision == "bf16"
        ),
        "measured": measured_bytes,
        "seconds": statistics.median(seconds),
    }


def print_row(row: Row, baseline: Row) -> None:
    """Print one line of the table; `baseline` is the row of the same model without recomputing."""
    print(
        f"{row['model']:20} {row['way']:6} {row['foreseen'] / MIB:8.1f} MiB "
        f"{row['measured'] / MIB:8.1f} MiB {row['foreseen'] / row['measured']:6.2f} "
        f"{row['measured'] / baseline['measured']:8.3f} {row['seconds']:8.3f} "
        f"{row['seconds'] / baseline['seconds']:8.2f}",
        flush=True,
    )


def print_time_per_layer(rows: list[Row], modes: list[RecomputeMode]) -> None:
    """Print how the time per layer of 1,202 layers compares with that of 110 layers."""
    seconds_per_layer = {(row["model"], row["way"]): row["seconds"] / row["layers"] for row in rows}
    for mode in modes:
        shallow, deep = ("cifar-resnet110", mode), ("cifar-resnet1202", mode)
        if {shallow, deep} <= set(seconds_per_layer):
            ratio = seconds_per_layer[deep] / seconds_per_layer[shallow]
            print(f"seconds per layer, 1,202 layers / 110 layers, {mode}: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    machine, rows = set_up_machine(arguments.precision), []
    print(
        f"{'model':20} {'mode':6} {'estimated':>12} {'measured':>12} {'ratio':>6} "
        f"{'/ plain':>8} {'s/step':>8} {'/ plain':>8}"
    )
    for model in arguments.models:
        for mode in arguments.ways:
            row = measure_mode(model, mode, machine, arguments)
            rows.append(row)
            baseline = next((r for r in rows if r["model"] == model and r["way"] == "none"), row)
            print_row(row, baseline)
    print_time_per_layer(rows, arguments.ways)
    environment = machine.describe_environment()
    print(json.dumps({"machine": environment, "batch": arguments.batch, "results": rows}))


if __name__ == "__main__":
    main()
