"""Training steps per second of networks with 20 to 1,202 layers, against eager PyTorch.

Meant for a GPU, on which the step of a deep network consists of thousands of small kernels; on a
CPU it runs too, with few `--layers`.  The loops take turns:

    eager fp32      the module as built, fp32, NCHW, on one batch that stays on the device
    eager bf16      the same in bf16 autocast and channels-last, as most scripts train ResNets today
    residua         this package's step, including the assembly of batches from uint8 images

    python benchmarks/depths.py [--layers 20 56 110 164 1001 1202] [--steps 50] [--rounds 5]

The images are random, in the number of CIFAR-10's training set: the time of a step does not depend
on their content.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from timing import measure_in_turn, measure_seconds
from tqdm import tqdm

from residua import create_model
from residua.config.dataset import get_dataset
from residua.config.recipe import recipe
from residua.data.batches import TrainingBatches
from residua.data.images import Images
from residua.training.machine import set_up_machine
from residua.training.step import TrainingStep

BOTTLENECK_LAYERS = (164, 1001)
CIFAR10, HE2015 = get_dataset("cifar10"), recipe("he2015")


def network_name_for(layers: int) -> str:
    """The papers' network of a depth: 2016 bottlenecks for 164 and 1,001 layers, otherwise 2015."""
    return f"cifar-{'preresnet' if layers in BOTTLENECK_LAYERS else 'resnet'}{layers}"


def make_eager_step(layers: int, device: torch.device, use_bf16: bool) -> Callable[[], None]:
    """The training step of a usual script, always on the same batch."""
    layout = torch.channels_last if use_bf16 else torch.contiguous_format
    net = create_model(network_name_for(layers), num_classes=10).to(device, memory_format=layout)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(HE2015.batch_size, *CIFAR10.input, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.zeros(HE2015.batch_size, dtype=torch.int64, device=device)

    def train_step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimiser.step()

    return train_step


def make_residua_step(layers: int) -> Callable[[], None]:
    """The training step of this package, including its batch."""
    machine = set_up_machine()
    net = machine.prepare_model_in_place(create_model(network_name_for(layers), num_classes=10))
    step, step_numbers = TrainingStep(net, HE2015.optimiser, machine), count()
    image_count = CIFAR10.num_images - CIFAR10.num_dev_images
    pixels = torch.randint(
        0, 256, (image_count, *CIFAR10.input), dtype=torch.uint8, device=machine.device
    )
    labels = torch.arange(image_count, device=machine.device) % len(CIFAR10.classes)
    batches = TrainingBatches(
        Images(pixels, labels), HE2015.batch_size, HE2015.augment, CIFAR10.mean, CIFAR10.std, 0
    )
    return lambda: step(*batches.make_batch(next(step_numbers)), 0.01) and None


def measure_step_rate(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Steps per second."""

    def run_steps() -> None:
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return steps / measure_seconds(run_steps)


def measure_depth(
    layers: int, steps: int, rounds: int, device: torch.device
) -> tuple[float, dict[str, float]]:
    """Seconds until the residua loop runs at full speed, and the median rate of each loop."""
    residua_step: list[Callable[[], None]] = []

    def start_residua() -> None:
        residua_step.append(make_residua_step(layers))
        measure_step_rate(residua_step[0], 5, device)  # the fourth step captures a CUDA graph

    first_seconds = measure_seconds(start_residua)
    # PyTorch's defaults, for the eager loops; `set_up_machine` changed them.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True
    loops = {
        "eager fp32": make_eager_step(layers, device, use_bf16=False),
        "eager bf16": make_eager_step(layers, device, use_bf16=True),
        "residua": residua_step[0],
    }
    for loop in loops.values():
        measure_step_rate(loop, 2, device)
    with tqdm(total=rounds * len(loops), desc=str(layers), leave=False) as bar:

        def measure_loop(loop: Callable[[], None]) -> float:
            rate = measure_step_rate(loop, steps, device)
            bar.update()
            return rate

        contenders = {name: partial(measure_loop, loop) for name, loop in loops.items()}
        rates = measure_in_turn(contenders, rounds)
    return first_seconds, {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 56, 110, 164, 1001, 1202])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device, results = set_up_machine().device, []
    print(
        f"{'layers':>6} {'first':>8}  steps/s: {'eager fp32':>11} {'eager bf16':>11} "
        f"{'residua':>9}  {'ratios':>12}"
    )
    for layers in arguments.layers:
        first_seconds, rates = measure_depth(layers, arguments.steps, arguments.rounds, device)
        eager_fp32_rate, eager_bf16_rate, residua_rate = rates.values()
        print(
            f"{layers:6} {first_seconds:6.1f} s           {eager_fp32_rate:11.2f} "
            f"{eager_bf16_rate:11.2f} {residua_rate:9.2f}  {residua_rate / eager_fp32_rate:5.2f} "
            f"{residua_rate / eager_bf16_rate:6.2f}",
            flush=True,
        )
        results.append({"layers": layers, "first_seconds": first_seconds, **rates})
    record = {
        "machine": set_up_machine().describe_environment(),
        "batch": HE2015.batch_size,
        "results": results,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
