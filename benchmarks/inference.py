"""Images per second of resnet50 at 224 x 224 by each engine and by torchvision, measured in turn.

Every contender maps uint8 images (n, 3, 224, 224) to probabilities, so each rate includes
normalisation and softmax.  Weights are random.  A rate is the median of the rounds.

    python benchmarks/inference.py [--rounds 5] [--batches 1 16] [--threads 2] [--without onnx ...]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peers import load_third_party
from timing import measure_in_turn, measure_seconds
from torch import Tensor

from residua import ModelConfig, create_model
from residua.data.sources.resolve import IMAGENET_MEAN, IMAGENET_STD
from residua.deploy.engine import (
    PROBABILITY_TOLERANCE,
    build_onnx_engine,
    build_openvino_engine,
    build_torch_engine,
    max_probability_difference,
)
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.int8 import write_int8_onnx
from residua.deploy.runners import make_openvino_runner

TORCHVISION_EAGER = "torchvision, eager fp32"
ENGINE_BUILDERS = {
    "torch": build_torch_engine,
    "onnx": build_onnx_engine,
    "openvino": build_openvino_engine,
}
Classifier = Callable[[Tensor], Tensor]  # (n, c, h, w) uint8 -> probabilities (n, classes)
third_party = load_third_party()


def make_torchvision_classifier() -> Classifier:
    """A network as torchvision's documentation runs it: fp32, NCHW, evaluation mode."""
    net = third_party.randomize_weights(third_party.torchvision.models.resnet50())
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def classify(pixels: Tensor) -> Tensor:
        return net((pixels.float() / 255 - mean) / std).softmax(1)

    return classify


def make_contenders(excluded: list[str]) -> dict[str, Classifier]:
    """The classifiers by name, without the excluded engines."""
    net = third_party.randomize_weights(create_model("resnet50"))
    config = ModelConfig(
        network=net.plan.network,
        classes=tuple(map(str, range(1000))),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        temperature=100.0,
    )
    classifiers: dict[str, Classifier] = {TORCHVISION_EAGER: make_torchvision_classifier()}
    fp32_engine = build_torch_engine(net, config, "fp32")
    for name, build_named_engine in ENGINE_BUILDERS.items():
        if name not in excluded:
            engine = build_named_engine(net, config)
            classifiers[f"residua, {engine.description}"] = engine
            difference = max_probability_difference(engine, fp32_engine)
            if not difference <= PROBABILITY_TOLERANCE:
                raise SystemExit(f"{engine.description} computes something else than PyTorch")
            print(
                f"{engine.description}: probabilities within {difference:.1e} of PyTorch's in fp32",
                flush=True,
            )
    if "openvino" not in excluded:
        classifiers["OpenVINO fp32"] = build_openvino_engine(net, config, "fp32")
    if "int8" not in excluded:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            module = ExportableClassifier(net, config, bake_preprocessing=True)
            calibration_pixels = torch.randint(256, (8, 3, 224, 224), dtype=torch.uint8)
            write_int8_onnx(module, config, calibration_pixels, file)
            run_int8 = make_openvino_runner(file, "bf16")
        classifiers["OpenVINO int8"] = lambda pixels: run_int8(pixels)[1]
    return classifiers


def measure_image_rate(classify: Classifier, pixels: Tensor) -> float:
    """Images per second of one batch."""
    return len(pixels) / measure_seconds(lambda: classify(pixels))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="+", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classifiers = make_contenders(arguments.without)
    for batch_size in arguments.batches:
        pixels = torch.randint(256, (batch_size, 3, 224, 224), dtype=torch.uint8)
        contenders = {
            name: partial(measure_image_rate, classify, pixels)
            for name, classify in classifiers.items()
        }
        rates = measure_in_turn(contenders, arguments.rounds, warm_up_rounds=1)
        eager_rate = statistics.median(rates[TORCHVISION_EAGER])
        print(
            f"\nbatch {batch_size}: images/s of {arguments.rounds} rounds in turn, "
            f"{arguments.threads} threads"
        )
        for name, round_rates in rates.items():
            median_rate = statistics.median(round_rates)
            print(
                f"{name:32} {median_rate:7.1f} ({min(round_rates):.1f} to {max(round_rates):.1f})"
                f"   {median_rate / eager_rate:5.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
