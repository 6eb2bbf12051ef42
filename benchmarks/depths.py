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

from residua.data.batches import Batches
from residua.data.read import Images
from residua.net.build import create_model
from residua.spec.dataset import dataset
from residua.spec.recipe import recipe
from residua.train.machine import machine
from residua.train.step import Step

BOTTLENECKS = (164, 1001)
DATA, RECIPE = dataset("cifar10"), recipe("he2015")


def name(layers: int) -> str:
    """As the papers: bottlenecks of the 2016 design at 164 and 1,001 layers, the 2015 design elsewhere."""
    return f"cifar-{'preresnet' if layers in BOTTLENECKS else 'resnet'}{layers}"


def eager(layers: int, device: torch.device, bf16: bool) -> Callable[[], None]:
    """A step that most code would make, on one batch."""
    layout = torch.channels_last if bf16 else torch.contiguous_format
    net = create_model(name(layers), num_classes=10).to(device, memory_format=layout)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(RECIPE.batch_size, *DATA.input, device=device).contiguous(memory_format=layout)
    labels = torch.zeros(RECIPE.batch_size, dtype=torch.int64, device=device)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimiser.step()

    return step


def ours(layers: int) -> Callable[[], None]:
    """A step of this package, with its batch."""
    here = machine()
    net = here.place(create_model(name(layers), num_classes=10))
    step, numbers = Step(net, RECIPE.optimiser, here), count()
    pixels = torch.randint(0, 256, (DATA.images - DATA.dev, *DATA.input), dtype=torch.uint8, device=here.device)
    images = Images(pixels, torch.arange(len(pixels), device=here.device) % len(DATA.classes))
    batches = Batches(images, RECIPE.batch_size, RECIPE.augment, DATA.mean, DATA.std, 0)
    return lambda: step(*batches.at(next(numbers)), 0.01) and None


def rate(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Steps a second."""
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 56, 110, 164, 1001, 1202])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device, results = machine().device, []
    print(f"{'layers':>6} {'first':>8}  steps/s: {'eager fp32':>11} {'eager bf16':>11} {'residua':>9}  {'ratios':>12}")
    for layers in arguments.layers:
        begun = time.perf_counter()
        own = ours(layers)
        rate(own, 5, device)  # a graph is captured at the fourth
        first = time.perf_counter() - begun
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True  # PyTorch's defaults, for its own loops
        loops = {"eager fp32": eager(layers, device, False), "eager bf16": eager(layers, device, True), "residua": own}
        for loop in loops.values():
            rate(loop, 2, device)
        rounds = [
            {what: rate(loop, arguments.steps, device) for what, loop in loops.items()}
            for _ in tqdm(range(arguments.rounds), desc=str(layers), leave=False)
        ]
        middle = {what: statistics.median(each[what] for each in rounds) for what in loops}
        fp32, bf16, mine = middle.values()
        print(
            f"{layers:6} {first:6.1f} s           {fp32:11.2f} {bf16:11.2f} {mine:9.2f}  {mine / fp32:5.2f} {mine / bf16:6.2f}",
            flush=True,
        )
        results.append({"layers": layers, "first_seconds": first, **middle})
        del loops, own
    print(json.dumps({"machine": machine().describe(), "batch": RECIPE.batch_size, "results": results}))


if __name__ == "__main__":
    main()
