"""Steps a second of networks from 20 to 1,202 layers: this package against eager PyTorch, in turn on one machine.

Meant for a GPU, where a deep net's step is thousands of small kernels; on a CPU it runs too, with few `--layers`.  The loops:

    eager fp32      the module as it is built, fp32, NCHW, batches already on the device
    eager bf16      the same in bf16 autocast and channels-last, as most scripts train ResNets today
    residua         this package's own step, batches assembled from uint8 images on the device included

    python benchmarks/depths.py [--layers 20 56 110 164 1001 1202] [--steps 50] [--rounds 5]

Images are random, as many as CIFAR-10 trains on: a step does the same with any.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import count

import torch
import torch.nn.functional as F
from tqdm import tqdm

from residua.config.dataset import get_dataset
from residua.config.recipe import recipe
from residua.data.batches import TrainingBatches
from residua.data.read import Images
from residua.net.build import create_model
from residua.training.machine import detect_machine
from residua.training.step import TrainingStep

BOTTLENECK_LAYERS = (164, 1001)
CIFAR10, HE2015 = get_dataset("cifar10"), recipe("he2015")


def network_name_for(layers: int) -> str:
    """As the papers: bottlenecks of the 2016 design at 164 and 1,001 layers, the 2015 design elsewhere."""
    return f"cifar-{'preresnet' if layers in BOTTLENECK_LAYERS else 'resnet'}{layers}"


def make_eager_step(layers: int, device: torch.device, use_bf16: bool) -> Callable[[], None]:
    """A step that most code would make, on one batch."""
    layout = torch.channels_last if use_bf16 else torch.contiguous_format
    net = create_model(network_name_for(layers), num_classes=10).to(device, memory_format=layout)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(HE2015.batch_size, *CIFAR10.input, device=device).contiguous(
        memory_format=layout
    )
    labels = torch.zeros(HE2015.batch_size, dtype=torch.int64, device=device)

    def train_step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimiser.step()

    return train_step


def make_residua_step(layers: int) -> Callable[[], None]:
    """A step of this package, with its batch."""
    this_machine = detect_machine()
    net = this_machine.prepare_model(create_model(network_name_for(layers), num_classes=10))
    step, step_numbers = TrainingStep(net, HE2015.optimiser, this_machine), count()
    pixels = torch.randint(
        0,
        256,
        (CIFAR10.num_images - CIFAR10.num_dev_images, *CIFAR10.input),
        dtype=torch.uint8,
        device=this_machine.device,
    )
    images = Images(
        pixels, torch.arange(len(pixels), device=this_machine.device) % len(CIFAR10.classes)
    )
    batches = TrainingBatches(
        images, HE2015.batch_size, HE2015.augment, CIFAR10.mean, CIFAR10.std, 0
    )
    return lambda: step(*batches.make_batch(next(step_numbers)), 0.01) and None


def measure_step_rate(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Steps a second."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 56, 110, 164, 1001, 1202])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device, results = detect_machine().device, []
    print(
        f"{'layers':>6} {'first':>8}  steps/s: {'eager fp32':>11} {'eager bf16':>11} {'residua':>9}  {'ratios':>12}"
    )
    for layers in arguments.layers:
        started = time.perf_counter()
        residua_step = make_residua_step(layers)
        measure_step_rate(residua_step, 5, device)  # a graph is captured at the fourth
        first_seconds = time.perf_counter() - started
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = (
            False,
            True,
        )  # PyTorch's defaults, for its own loops
        loops = {
            "eager fp32": make_eager_step(layers, device, False),
            "eager bf16": make_eager_step(layers, device, True),
            "residua": residua_step,
        }
        for loop in loops.values():
            measure_step_rate(loop, 2, device)
        rounds = [
            {what: measure_step_rate(loop, arguments.steps, device) for what, loop in loops.items()}
            for _ in tqdm(range(arguments.rounds), desc=str(layers), leave=False)
        ]
        median_rates = {what: statistics.median(each[what] for each in rounds) for what in loops}
        eager_fp32_rate, eager_bf16_rate, residua_rate = median_rates.values()
        print(
            f"{layers:6} {first_seconds:6.1f} s           {eager_fp32_rate:11.2f} {eager_bf16_rate:11.2f} {residua_rate:9.2f}  {residua_rate / eager_fp32_rate:5.2f} {residua_rate / eager_bf16_rate:6.2f}",
            flush=True,
        )
        results.append({"layers": layers, "first_seconds": first_seconds, **median_rates})
        del loops, residua_step
    print(
        json.dumps(
            {
                "machine": detect_machine().describe_environment(),
                "batch": HE2015.batch_size,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
