"""Images per second of `residua predict` on a photo folder, against decoding or inference alone.

Decoding alone uses the same threads and the same queue as both together; inference alone has its
images in memory.  The three are measured in turn, round after round, each on all images; the rates
are medians.

    python benchmarks/predict.py FOLDER [--model resnet18] [--engines torch openvino] [--rounds 5]
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import measure_in_turn, measure_seconds
from torch import Tensor

from residua import ModelConfig, create_model
from residua.data.sources.resolve import IMAGENET_MEAN, IMAGENET_STD
from residua.deploy.engine import InferenceEngine, build_engine
from residua.deploy.image_files import find_image_files
from residua.deploy.predict import (
    PREDICTION_BATCH_SIZE,
    decode_files,
    predict_files,
)


def measure_engine(
    engine: InferenceEngine, paths: list[Path], pixels: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Images per second in each round: of decoding, of inference, and of both."""
    batches = pixels.split(PREDICTION_BATCH_SIZE)
    engine(batches[0])  # compiles, where the engine does
    workloads: dict[str, Callable[[], object]] = {
        "decoding": lambda: [None for _ in decode_files(paths, engine.config)],
        "inference": lambda: [engine(batch) for batch in batches],
        "both": lambda: [None for _ in predict_files(paths, engine, engine.config)],
    }

    def measure_rate(work: Callable[[], object]) -> float:
        return len(paths) / measure_seconds(work)

    return measure_in_turn(
        {name: partial(measure_rate, work) for name, work in workloads.items()}, rounds
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--engines", nargs="+", default=["torch", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = list(find_image_files(arguments.folder))
    net = create_model(arguments.model)  # untrained weights are as fast as trained ones
    config = ModelConfig(
        network=net.plan.network,
        classes=tuple(f"class {k}" for k in range(net.plan.network.classes)),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=256,
    )
    pixels = torch.stack(
        [image.pixels for image in decode_files(paths, config) if image.pixels is not None]
    )
    print(
        f"{len(paths):,} files, {len(pixels):,} images, batches of {PREDICTION_BATCH_SIZE}, "
        f"{torch.get_num_threads()} threads of PyTorch\n"
    )
    print("| engine | decoding alone | inference alone | both | both / the slower one |")
    print("|---|---|---|---|---|")
    for name in arguments.engines:
        engine = build_engine(net, config, name)
        rates = measure_engine(engine, paths, pixels, arguments.rounds)
        decoding, inference, both = (statistics.median(values) for values in rates.values())
        shares = [
            both_rate / min(decoding_rate, inference_rate)
            for decoding_rate, inference_rate, both_rate in zip(*rates.values(), strict=True)
        ]
        print(
            f"| {engine.description} | {decoding:,.0f} /s | {inference:,.0f} /s | {both:,.0f} /s "
            f"| {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
