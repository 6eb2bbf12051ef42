"""One flat all-reduce of the gradients after the backward pass, or buckets that overlap with it.

    python benchmarks/all_reduce.py [--processes 2 4] [--models cifar-resnet20 resnet18 resnet50]

On a CPU with gloo, with a batch of two images for each process.  The processes share the cores of
this machine, so the times say which way is faster here, not how fast a cluster is.  "none" averages
nothing, so that the difference to it is the time that the exchange adds to a step.  Buckets are
filled from the last layer on, as in DistributedDataParallel, and each is sent as soon as the
backward pass has all of its gradients.
"""

import argparse
import json
import os
import socket
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timing import measure_in_turn, measure_seconds
from torch import Tensor

from residua import create_model
from residua.config.optimisers import Sgd
from residua.training.distributed import DataParallelGroup
from residua.training.gradients import GradientMemory
from residua.training.machine import Machine
from residua.training.step import TrainingStep

SIDES = {"cifar-resnet20": 32}  # of the images; else 64
BUCKET_MIB = (4, 25)
IMAGES_PER_PROCESS = 2


class BucketExchange:
    """Sums the gradients of `memory` in buckets of at least `bucket_bytes`, during the backward."""

    def __init__(self, memory: GradientMemory, bucket_bytes: int) -> None:
        self.memory, self.works, self.is_on = memory, [], False
        self.buckets: list[Tensor] = []
        self.sizes: list[int] = []  # parameters in each bucket
        end = position = memory.tensor.numel()
        count = 0
        for i in reversed(range(len(memory.parameters))):
            parameter, bucket = memory.parameters[i], len(self.buckets)
            parameter.register_post_accumulate_grad_hook(partial(self.count, bucket))
            position, count = position - parameter.numel(), count + 1
            if i == 0 or (end - position) * memory.tensor.element_size() >= bucket_bytes:
                self.buckets.append(memory.tensor[position:end])
                self.sizes.append(count)
                end, count = position, 0
        self.missing = [*self.sizes]

    def count(self, bucket: int, _: Tensor) -> None:
        """Send the bucket once all of its gradients are there."""
        if not self.is_on:
            return
        self.missing[bucket] -= 1
        if self.missing[bucket] == 0:
            self.works.append(dist.all_reduce(self.buckets[bucket], async_op=True))

    def finish(self) -> None:
        """Wait for all buckets, and sum the results of the step."""
        dist.all_reduce(self.memory.results)
        for work in self.works:
            work.wait()
        self.memory.tensor.div_(self.memory.group.world_size)
        self.works, self.missing = [], [*self.sizes]


def make_contenders(model: str, group: DataParallelGroup, steps: int) -> dict[str, Callable]:
    """Functions that train for some steps, each with its own way to exchange gradients."""
    side = SIDES.get(model, 64)
    net = create_model(model, input=(3, side, side), num_classes=10, seed=0).train()
    machine = Machine(torch.device("cpu"), "fp32", group=group)
    step = TrainingStep(net, Sgd(), machine, group.world_size)
    images = torch.randn(
        IMAGES_PER_PROCESS, 3, side, side, generator=torch.Generator().manual_seed(group.rank)
    )
    labels, flat = torch.arange(IMAGES_PER_PROCESS), step.gradients.average_over_ranks
    exchanges = {
        f"buckets of {size} MiB": BucketExchange(step.gradients, size * 2**20)
        for size in BUCKET_MIB
    }

    def train(average: Callable[[], None], exchange: BucketExchange | None) -> float:
        for other in exchanges.values():
            other.is_on = other is exchange
        step.gradients.average_over_ranks = average
        dist.barrier()
        return measure_seconds(
            lambda: [step(images, labels, 1e-4) for _ in range(steps)] and dist.barrier()
        )

    sums = []
    for average, exchange in ((flat, None), *((e.finish, e) for e in exchanges.values())):
        for other in exchanges.values():
            other.is_on = other is exchange
        step.gradients.average_over_ranks = average
        step(images, labels, 0.0)
        sums.append(step.gradients.flat.clone())
    assert all(torch.allclose(other, sums[0], rtol=1e-3, atol=1e-6) for other in sums)

    ways = {"none": (lambda: None, None), "flat": (flat, None)}
    ways |= {name: (exchange.finish, exchange) for name, exchange in exchanges.items()}
    return {name: partial(train, *way) for name, way in ways.items()}


def measure_on_rank(
    rank: int, processes: int, port: int, model: str, steps: int, rounds: int, path: str
) -> None:
    """Measure all ways in turn; rank 0 writes the milliseconds of a step to `path`."""
    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes
    )
    contenders = make_contenders(model, DataParallelGroup(rank, processes, rank), steps)
    seconds = measure_in_turn(contenders, rounds, warm_up_rounds=1)
    if rank == 0:
        milliseconds = {name: 1000 * statistics.median(v) / steps for name, v in seconds.items()}
        Path(path).write_text(json.dumps(milliseconds))
    dist.barrier()
    dist.destroy_process_group()


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--models", nargs="+", default=["cifar-resnet20", "resnet18", "resnet50"])
    parser.add_argument("--steps", type=int, default=5, help="steps of a round (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, default=Path("all_reduce.json"))
    arguments = parser.parse_args()
    rows = []
    for model in arguments.models:
        parameters = sum(p.numel() for p in create_model(model, num_classes=10).parameters())
        for processes in arguments.processes:
            sizes = arguments.steps, arguments.rounds, str(arguments.json)
            mp.spawn(
                measure_on_rank, (processes, find_free_port(), model, *sizes), nprocs=processes
            )
            milliseconds = json.loads(arguments.json.read_text())
            rows.append(
                {
                    "model": model,
                    "gradient_bytes": 4 * parameters,
                    "processes": processes,
                    "milliseconds": milliseconds,
                }
            )
            print(f"{model}, {4 * parameters / 1e6:.1f} MB, {processes} processes:", end=" ")
            print(", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items()))
    arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
