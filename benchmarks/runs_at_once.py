"""Training steps per second of several networks at once on one GPU, all together.

    python benchmarks/runs_at_once.py [--layers 20] [--runs 1 2 4 8] [--steps 300] [--json FILE]

Each network is trained in a thread with a CUDA stream of its own, as `residua study` does.  The
last column says whether each network has the weights, to the bit, that it has after as many steps
alone.  The images are random.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from depths import CIFAR10, HE2015, network_name_for
from timing import measure_seconds

from residua import create_model
from residua.data.batches import TrainingBatches
from residua.data.images import Images
from residua.training.gpu_streams import get_own_stream
from residua.training.machine import Machine, set_up_machine
from residua.training.step import TrainingStep, make_training_step

WARMUP_STEPS = 6


def make_trainer(
    layers: int, seed: int, machine: Machine
) -> tuple[Callable[[int, int], None], TrainingStep]:
    """A function that trains from one step to another on its thread's stream, and its step."""
    net = create_model(network_name_for(layers), num_classes=10, seed=seed)
    step = make_training_step(machine.prepare_model_in_place(net).train(), HE2015, machine)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5000, *CIFAR10.input), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(5000) % 10).to(machine.device)
    batches = TrainingBatches(
        images, HE2015.batch_size, HE2015.augment, CIFAR10.mean, CIFAR10.std, seed
    )
    torch.cuda.synchronize()  # the weights and images are there for other streams, too

    def train(first: int, end: int) -> None:
        stream = get_own_stream("run")
        with torch.cuda.stream(stream):
            for i in range(first, end):
                step.train_on_step(batches, i, 0.01)
            stream.synchronize()

    return train, step


def train_at_once(
    layers: int, runs: int, steps: int, machine: Machine
) -> tuple[float, list[dict[str, torch.Tensor]]]:
    """Steps per second of all runs together, and the weights of each after them."""
    trainers = [make_trainer(layers, seed, machine) for seed in range(runs)]
    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(lambda trainer: trainer[0](0, WARMUP_STEPS), trainers))

        def run_all() -> None:
            end = WARMUP_STEPS + steps
            list(pool.map(lambda trainer: trainer[0](WARMUP_STEPS, end), trainers))

        seconds = measure_seconds(run_all)
    return runs * steps / seconds, [step.net.state_dict() for _, step in trainers]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="write the record to this file too")
    arguments = parser.parse_args()
    machine, results = set_up_machine(), []
    print(f"{'runs':>4} {'steps/s':>9} {'times one':>9}  bits of each alone")
    alone: list[dict[str, torch.Tensor]] = []
    for seed in range(max(arguments.runs)):
        trainer, step = make_trainer(arguments.layers, seed, machine)
        trainer(0, WARMUP_STEPS + arguments.steps)
        alone.append({name: value.clone() for name, value in step.net.state_dict().items()})
        del trainer, step
    for runs in arguments.runs:
        rate, states = train_at_once(arguments.layers, runs, arguments.steps, machine)
        is_equal = all(
            torch.equal(state[name], wanted[name])
            for state, wanted in zip(states, alone, strict=False)
            for name in wanted
        )
        results.append({"runs": runs, "steps_per_second": rate, "equal_bits": is_equal})
        factor = rate / results[0]["steps_per_second"]
        print(f"{runs:4} {rate:9.1f} {factor:9.2f}  {is_equal}", flush=True)
    record = {
        "machine": machine.describe_environment(),
        "layers": arguments.layers,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
