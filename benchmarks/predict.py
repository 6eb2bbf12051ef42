"""Images a second of `residua predict` on a folder of photographs, beside decoding alone and inference alone.

Decoding alone and both together use the same threads and the same queue; inference alone has its images in memory.  The three are
measured in turn, round after round, each over all images; of the times the medians are told.

    python benchmarks/predict.py FOLDER [--model resnet18] [--engines torch openvino] [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from residua import ModelConfig, create_model, save_pretrained
from residua.deploy.engine import load_engine
from residua.deploy.predict import (
    PREDICTION_BATCH_SIZE,
    decode_files,
    find_image_files,
    predict_files,
)


def measure_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--engines", nargs="+", default=["torch", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = list(find_image_files(arguments.folder))
    net = create_model(arguments.model)  # new weights: they are as fast as trained ones
    config = ModelConfig(
        network=net.plan.network,
        classes=tuple(f"class {k}" for k in range(net.plan.network.classes)),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        resize=256,
    )
    pixels = torch.stack(
        [image.pixels for image in decode_files(paths, config) if image.pixels is not None]
    )
    print(
        f"{len(paths):,} files, {len(pixels):,} images, batches of {PREDICTION_BATCH_SIZE}, {torch.get_num_threads()} threads of PyTorch\n"
    )
    print(
        "| engine | decoding alone | inference alone | both | of the slower |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(net, config, Path(folder, "model"))
        for name in arguments.engines:
            classify = load_engine(Path(folder, "model"), name)
            classify(pixels[:PREDICTION_BATCH_SIZE])  # which compiles
            batches = pixels.split(PREDICTION_BATCH_SIZE)
            workloads: dict[str, Callable[[], object]] = {
                "decoding": lambda: [None for _ in decode_files(paths, config)],
                "inference": lambda: [classify(batch) for batch in batches],  # noqa: B023
                "both": lambda: [None for _ in predict_files(paths, classify, config)],  # noqa: B023
            }
            rounds = [
                {way: len(paths) / measure_seconds(work) for way, work in workloads.items()}
                for _ in range(arguments.rounds)
            ]
            median_rates = {way: statistics.median(r[way] for r in rounds) for way in workloads}
            median_share = statistics.median(
                r["both"] / min(r["decoding"], r["inference"]) for r in rounds
            )
            low, high = [
                f(r["both"] / min(r["decoding"], r["inference"]) for r in rounds)
                for f in (min, max)
            ]
            print(
                f"| {classify.description} | {median_rates['decoding']:,.0f} /s | {median_rates['inference']:,.0f} /s | {median_rates['both']:,.0f} /s "
                f"| {median_share:.2f} ({low:.2f} to {high:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
