"""Images a second of resnet50 at 224: torchvision's way, our engines, and OpenVINO in fp32, bf16 and int8, measured in turn.

Each takes uint8 images (n, 3, 224, 224) and gives probabilities: normalisation and softmax are in every number.  Weights are
random.  A number is the median of the rounds.

    python benchmarks/inference.py [--rounds 5] [--batches 1 16] [--threads 2] [--without onnx ...]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from residua.deploy.engine import difference, onnx_engine, openvino_engine, torch_engine
from residua.deploy.graph import Graph
from residua.deploy.int8 import write_int8
from residua.deploy.runners import openvino_runner
from residua.net.build import create_model
from residua.spec.model import ModelConfig
from tests.peers import randomised, torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EAGER = "torchvision, eager fp32"


def eager() -> Callable[[Tensor], Tensor]:
    """As torchvision's documentation runs a network: fp32, NCHW, evaluation mode."""
    net = randomised(torchvision.models.resnet50())
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]

    @torch.inference_mode()
    def run(pixels: Tensor) -> Tensor:
        return net((pixels.float() / 255 - mean) / std).softmax(1)

    return run


def contenders(without: list[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    net = randomised(create_model("resnet50"))
    config = ModelConfig(network=net.plan.network, classes=tuple(map(str, range(1000))), mean=MEAN, std=STD, temperature=100.0)
    made: dict[str, Callable[[Tensor], Tensor]] = {EAGER: eager()}
    plain = torch_engine(net, config, "fp32")
    engines = {"torch": torch_engine, "onnx": onnx_engine, "openvino": openvino_engine}
    for name, make in engines.items():
        if name not in without:
            found = make(net, config)
            made[f"residua, {found.name}"] = found
            print(f"{found.name}: probabilities within {difference(found, plain):.1e} of PyTorch's in fp32", flush=True)
    if "openvino" not in without:
        made["OpenVINO fp32"] = openvino_engine(net, config, "fp32")
    if "int8" not in without:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            write_int8(Graph(net, config, bakes=True), config, torch.randint(256, (8, 3, 224, 224), dtype=torch.uint8), file)
            int8 = openvino_runner(file, "bf16")
            made["OpenVINO int8"] = lambda pixels: int8(pixels)[1]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="+", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = contenders(arguments.without)
    for batch in arguments.batches:
        pixels = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 + arguments.rounds):  # the first warms up
            for name, run in runs.items():
                begun = time.perf_counter()
                run(pixels)
                rates[name].append(batch / (time.perf_counter() - begun))
        base = statistics.median(rates[EAGER][1:])
        print(f"\nbatch {batch}: images/s of {arguments.rounds} rounds in turn, {arguments.threads} threads")
        for name, found in rates.items():
            middle = statistics.median(found[1:])
            print(f"{name:32} {middle:7.1f} ({min(found[1:]):.1f} to {max(found[1:]):.1f})   {middle / base:5.2f}x", flush=True)


if __name__ == "__main__":
    main()
