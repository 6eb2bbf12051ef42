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

from residua.config.model import ModelConfig
from residua.deploy.engine import (
    build_onnx_engine,
    build_openvino_engine,
    build_torch_engine,
    max_probability_difference,
)
from residua.deploy.inference_module import InferenceModule
from residua.deploy.int8 import write_int8_onnx
from residua.deploy.runners import make_openvino_runner
from residua.net.build import create_model
from tests.third_party import randomize_weights, torchvision

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_EAGER = "torchvision, eager fp32"


def make_torchvision_classifier() -> Callable[[Tensor], Tensor]:
    """As torchvision's documentation runs a network: fp32, NCHW, evaluation mode."""
    net = randomize_weights(torchvision.models.resnet50())
    mean, std = (
        torch.tensor(IMAGENET_MEAN)[:, None, None],
        torch.tensor(IMAGENET_STD)[:, None, None],
    )

    @torch.inference_mode()
    def classify(pixels: Tensor) -> Tensor:
        return net((pixels.float() / 255 - mean) / std).softmax(1)

    return classify


def make_contenders(excluded: list[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    net = randomize_weights(create_model("resnet50"))
    config = ModelConfig(
        network=net.plan.network,
        classes=tuple(map(str, range(1000))),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        temperature=100.0,
    )
    classifiers: dict[str, Callable[[Tensor], Tensor]] = {
        TORCHVISION_EAGER: make_torchvision_classifier()
    }
    fp32_engine = build_torch_engine(net, config, "fp32")
    engines = {
        "torch": build_torch_engine,
        "onnx": build_onnx_engine,
        "openvino": build_openvino_engine,
    }
    for name, make in engines.items():
        if name not in excluded:
            engine = make(net, config)
            classifiers[f"residua, {engine.name}"] = engine
            print(
                f"{engine.name}: probabilities within {max_probability_difference(engine, fp32_engine):.1e} of PyTorch's in fp32",
                flush=True,
            )
    if "openvino" not in excluded:
        classifiers["OpenVINO fp32"] = build_openvino_engine(net, config, "fp32")
    if "int8" not in excluded:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            write_int8_onnx(
                InferenceModule(net, config, bake_preprocessing=True),
                config,
                torch.randint(256, (8, 3, 224, 224), dtype=torch.uint8),
                file,
            )
            run_int8 = make_openvino_runner(file, "bf16")
            classifiers["OpenVINO int8"] = lambda pixels: run_int8(pixels)[1]
    return classifiers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="+", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifiers = make_contenders(arguments.without)
    for batch in arguments.batches:
        pixels = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
        rates: dict[str, list[float]] = {name: [] for name in classifiers}
        for _ in range(1 + arguments.rounds):  # the first warms up
            for name, classify in classifiers.items():
                started = time.perf_counter()
                classify(pixels)
                rates[name].append(batch / (time.perf_counter() - started))
        eager_rate = statistics.median(rates[TORCHVISION_EAGER][1:])
        print(
            f"\nbatch {batch}: images/s of {arguments.rounds} rounds in turn, {arguments.threads} threads"
        )
        for name, round_rates in rates.items():
            median_rate = statistics.median(round_rates[1:])
            print(
                f"{name:32} {median_rate:7.1f} ({min(round_rates[1:]):.1f} to {max(round_rates[1:]):.1f})   {median_rate / eager_rate:5.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
