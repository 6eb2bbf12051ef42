"""Images per second of training, data and evaluation included, against a usual training loop.

The usual loop is a DataLoader with per-sample transforms, fp32, NCHW and one SGD step per batch; of
the numbers of workers that are tried, the faster one counts.  Each loop runs in its own process.  A
round is the same share of an epoch for each loop: training steps, and the evaluation of the same
share of the held-out images.  The loops take turns, because the speed of the machine changes; the
result is a ratio of medians.

    RESIDUA_DATA=FOLDER python benchmarks/training.py cifar-resnet20 [--rounds 9]
    RESIDUA_DATA=FOLDER python benchmarks/training.py resnet50 --photographs FOLDER/imagenette
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from timing import measure_in_turn, measure_seconds
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from training_loops import LOOP_FACTORIES, WORKLOADS, Workload

from residua import network, plan
from residua.net.fused_bn_kernels import BatchNormAddReLUFunction
from residua.training.machine import set_up_machine

FUSED_OPERATION = BatchNormAddReLUFunction.__name__
STEP_PARTS = {  # parts of a training step -> the profiler's names of their operations
    "convolution, forward": ("aten::mkldnn_convolution",),
    "convolution, backward": ("aten::convolution_backward",),
    "BN, sum and ReLU": (FUSED_OPERATION, f"{FUSED_OPERATION}Backward"),
    "sums of gradients": ("aten::add_",),
}


def run_loop_process(
    name: str, workload: Workload, photo_folder: Path | None, connection: Connection
) -> None:
    """Answer commands until an empty one arrives.

    "round" runs one round and sends the seconds of training and of evaluation; "profile" sends the
    milliseconds of a step by part.
    """
    train_step, evaluate_share = LOOP_FACTORIES[name](workload, photo_folder)

    def train_round() -> None:
        for _ in range(workload.steps):
            train_step()

    while command := connection.recv():
        if command == "round":
            connection.send((measure_seconds(train_round), measure_seconds(evaluate_share)))
        else:
            connection.send(profile_step_parts(train_step, 5))


def start_loop_processes(workload: Workload, photo_folder: Path | None) -> dict[str, Connection]:
    """Start one process per loop; returns the connections for their commands."""
    context, connections = multiprocessing.get_context("spawn"), {}
    for name in LOOP_FACTORIES:
        connections[name], child_end = context.Pipe()
        values = (name, workload, photo_folder, child_end)
        context.Process(target=run_loop_process, args=values).start()
        child_end.close()  # otherwise `recv` would wait forever if the process died
    return connections


def profile_step_parts(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Milliseconds of a step by part; "all else" is the rest of the wall-clock time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        total_seconds = time.perf_counter() - started
    milliseconds_by_part: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        for part, names in STEP_PARTS.items():
            if event.key in names:
                milliseconds_by_part[part] += event.self_cpu_time_total / 1000 / steps
    return {part: milliseconds_by_part[part] for part in STEP_PARTS} | {
        "all else": 1000 * total_seconds / steps - sum(milliseconds_by_part.values())
    }


def measure_matmul_rate() -> float:
    """Operations per second of a bf16 product (4096, 1024) x (1024, 1024), the median of 20."""
    a, b = torch.randn(4096, 1024).bfloat16(), torch.randn(1024, 1024).bfloat16()
    seconds = [measure_seconds(lambda: a @ b) for _ in range(25)]
    return float(2 * 4096 * 1024 * 1024 / statistics.median(seconds[5:]))


@dataclass(frozen=True, slots=True)
class RoundRates:
    """Rates of every round."""

    total: dict[str, list[float]]  # images per second of training and evaluation, by loop
    training: dict[str, list[float]]  # images per second of training alone, by loop
    matmul: list[float]  # operations per second


def measure_rounds(connections: dict[str, Connection], images: int, rounds: int) -> RoundRates:
    """Let the loops take turns; `images` are trained on per round."""
    bar = tqdm(total=(1 + rounds) * len(connections), desc="rounds")

    def measure_round(connection: Connection) -> tuple[float, float]:
        connection.send("round")
        training_seconds, evaluation_seconds = connection.recv()
        bar.update()
        return images / (training_seconds + evaluation_seconds), images / training_seconds

    matmul_rates: list[float] = []

    def measure_matmul() -> tuple[float, float]:
        matmul_rates.append(measure_matmul_rate())
        return 0.0, 0.0

    contenders = {
        name: partial(measure_round, connection) for name, connection in connections.items()
    }
    rates = measure_in_turn(contenders | {"matmul": measure_matmul}, rounds, warm_up_rounds=1)
    bar.close()
    return RoundRates(
        {name: [total for total, _ in rates[name]] for name in connections},
        {name: [training for _, training in rates[name]] for name in connections},
        matmul_rates,
    )


def compute_matmul_share(workload: Workload, training_rate: float, matmul_rate: float) -> float:
    """The rate of a step's multiply-adds as a share of the rate of a matrix product."""
    planned = plan(network(workload.model))
    # Forward, and two backward passes; the first layer needs no gradient of its images.
    operations = 2 * (3 * planned.multiply_adds - planned.stem[0].multiply_adds)
    return training_rate * operations / matmul_rate


def print_results(
    workload: Workload, rounds: int, rates: RoundRates, milliseconds_by_part: dict[str, float]
) -> None:
    """Print the table of the loops, the ratios, the parts of a step, and a JSON record."""
    total, training = (
        {name: statistics.median(values) for name, values in rates_by_loop.items()}
        for rates_by_loop in (rates.total, rates.training)
    )
    matmul_rate = statistics.median(rates.matmul)
    matmul_share = compute_matmul_share(workload, training["residua"], matmul_rate)
    print(
        f"{workload.model}, batch {workload.batch_size}: images/s of {rounds} rounds of "
        f"{workload.steps} steps and {workload.eval_images} images evaluated"
    )
    print(f"{'loop':18} {'total: median (lowest to highest)':36} training alone")
    for name, values in rates.total.items():
        total_words = f"{total[name]:.4g} ({min(values):.4g} to {max(values):.4g})"
        print(f"{name:18} {total_words:36} {training[name]:.4g}")
    usual = max((name for name in total if name != "residua"), key=total.__getitem__)
    print(
        f"ratio to the faster usual loop: {total['residua'] / total[usual]:.2f}; "
        f"training alone {training['residua'] / training[usual]:.2f}"
    )
    print(
        f"share of the rate of a bf16 matrix product ({matmul_rate / 1e9:.0f} G operations/s): "
        f"{100 * matmul_share:.0f} %"
    )
    for part, milliseconds in milliseconds_by_part.items():
        print(f"  {part:24} {milliseconds:7.1f} ms per step")
    record = {
        "machine": set_up_machine().describe_environment(),
        "cores": os.cpu_count(),
        "whole": total,
        "steps": training,
        "share": matmul_share,
    }
    print(json.dumps(record))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(WORKLOADS))
    parser.add_argument(
        "--photographs",
        type=Path,
        help="a folder of train/CLASS/FILE and val/CLASS/FILE, of 224 x 224 pixels",
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.model]
    if (arguments.photographs is None) == (workload.model == "resnet50"):
        parser.error("resnet50 needs --photographs, and cifar-resnet20 takes none")
    connections = start_loop_processes(workload, arguments.photographs)
    images = workload.steps * workload.batch_size
    rates = measure_rounds(connections, images, arguments.rounds)
    connections["residua"].send("profile")
    milliseconds_by_part = connections["residua"].recv()
    for connection in connections.values():
        connection.send("")
    print_results(workload, arguments.rounds, rates, milliseconds_by_part)


if __name__ == "__main__":
    main()
