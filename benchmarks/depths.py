"""Training steps per second of networks with 20 to 1,202 layers, beside PyTorch's own ways.

Meant for a GPU, on which the step of a deep network consists of thousands of small kernels; on a
CPU it runs too, with few `--layers`.  The loops take turns:

    eager fp32      the module as built, fp32, NCHW, on one batch that stays on the device
    eager bf16      the same in bf16 autocast and channels-last, as most scripts train ResNets today
    compiled        the same through torch.compile(mode="reduce-overhead"), which uses CUDA graphs
    residua         this package's step by the recipe he2015, including the assembly of batches from
                    uint8 images
    residua fast    the same by the recipe fast, whose optimiser is Muon
    residua +moments  as residua, where convolutions compute the moments of the BN after them
    residua +stream   as residua, with weight gradients on a stream of their own

The last two are not what training does: they are to be measured first.

    python benchmarks/depths.py [--layers 20 56 110 164 1001 1202] [--loops residua compiled]
                                [--steps 50] [--rounds 5] [--json FILE]

The images are random, in the number of CIFAR-10's training set: the time of a step does not depend
on their content.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import measure_in_turn, measure_seconds
from tqdm import tqdm

from residua import create_model
from residua.config.dataset import get_dataset
from residua.config.recipes import recipe
from residua.data.batches import TrainingBatches
from residua.data.images import Images
from residua.net import fast_conv
from residua.net.gradient_stream import WeightGradientStream
from residua.training.machine import set_up_machine
from residua.training.step import make_training_step

BOTTLENECK_LAYERS = (164, 1001)
CIFAR10, HE2015 = get_dataset("cifar10"), recipe("he2015")
LOOPS = (
    *("eager fp32", "eager bf16", "compiled", "residua", "residua fast"),
    *("residua +moments", "residua +stream"),
)
USUAL_LOOPS = LOOPS[:5]


def network_name_for(layers: int) -> str:
    """The papers' network of a depth: 2016 bottlenecks for 164 and 1,001 layers, otherwise 2015."""
    return f"cifar-{'preresnet' if layers in BOTTLENECK_LAYERS else 'resnet'}{layers}"


def make_pytorch_step(layers: int, device: torch.device, loop: str) -> Callable[[], None]:
    """The training step of a usual script, always on the same batch."""
    # PyTorch's defaults; `set_up_machine` changed them.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True
    use_bf16 = loop != "eager fp32"
    layout = torch.channels_last if use_bf16 else torch.contiguous_format
    net = create_model(network_name_for(layers), num_classes=10).to(device, memory_format=layout)
    optimiser = torch.optim.SGD(
        net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    images = torch.randn(HE2015.batch_size, *CIFAR10.input, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.zeros(HE2015.batch_size, dtype=torch.int64, device=device)
    forward = torch.compile(net, mode="reduce-overhead") if loop == "compiled" else net

    def train_step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimiser.step()

    return train_step


def make_residua_step(layers: int, loop: str) -> Callable[[], None]:
    """The training step of this package, including its batch."""
    fast_conv.MAX_MOMENT_PARTS = 512 if loop == "residua +moments" else 0
    machine = set_up_machine()
    net = machine.prepare_model_in_place(create_model(network_name_for(layers), num_classes=10))
    settings = recipe("fast") if loop == "residua fast" else HE2015
    settings = replace(settings, batch_size=HE2015.batch_size)
    step, step_numbers = make_training_step(net.train(), settings, machine), count()
    if loop == "residua +stream":
        step.gradient_stream = WeightGradientStream(machine.device)
    image_count = CIFAR10.num_images - CIFAR10.num_dev_images
    pixels = torch.randint(
        0, 256, (image_count, *CIFAR10.input), dtype=torch.uint8, device=machine.device
    )
    labels = torch.arange(image_count, device=machine.device) % len(CIFAR10.classes)
    batches = TrainingBatches(
        Images(pixels, labels), settings.batch_size, settings.augment, CIFAR10.mean, CIFAR10.std, 0
    )

    def train_step() -> None:
        if step.can_assemble(batches):
            step.train_on_step(batches, next(step_numbers), 0.01)
        else:
            step(*batches.make_batch(next(step_numbers)), 0.01)

    return train_step


def measure_step_rate(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Steps per second."""

    def run_steps() -> None:
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return steps / measure_seconds(run_steps)


def start_loop(layers: int, loop: str, device: torch.device) -> tuple[Callable[[], None], float]:
    """The step of a loop, and the seconds until it runs at full speed."""
    started = time.perf_counter()
    if loop.startswith("residua"):
        step = make_residua_step(layers, loop)
    else:
        step = make_pytorch_step(layers, device, loop)
    measure_step_rate(step, 5, device)  # the fourth step captures a CUDA graph
    return step, time.perf_counter() - started


def measure_depth(
    layers: int, loops: list[str], steps: int, rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """For each loop, the median rate and the seconds until it runs at full speed."""
    started = {loop: start_loop(layers, loop, device) for loop in loops}
    with tqdm(total=rounds * len(loops), desc=str(layers), leave=False) as bar:

        def measure_loop(step: Callable[[], None]) -> float:
            rate = measure_step_rate(step, steps, device)
            bar.update()
            return rate

        contenders = {loop: partial(measure_loop, step) for loop, (step, _) in started.items()}
        rates = measure_in_turn(contenders, rounds)
    return {
        loop: {"steps_per_second": statistics.median(rates[loop]), "first_seconds": seconds}
        for loop, (_, seconds) in started.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 56, 110, 164, 1001, 1202])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=[*USUAL_LOOPS])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the record to this file too")
    arguments = parser.parse_args()
    device, results = set_up_machine().device, []
    print("steps/s (seconds to full speed)")
    print(f"{'layers':>6}" + "".join(f"{loop:>18}" for loop in arguments.loops))
    for layers in arguments.layers:
        measured = measure_depth(layers, arguments.loops, arguments.steps, arguments.rounds, device)
        columns = [
            f"{row['steps_per_second']:10.2f} ({row['first_seconds']:4.1f})"
            for row in measured.values()
        ]
        print(f"{layers:6}" + "".join(f"{column:>18}" for column in columns), flush=True)
        results.append({"layers": layers, "loops": measured})
        record = {
            "machine": set_up_machine().describe_environment(),
            "batch": HE2015.batch_size,
            "results": results,
        }
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
