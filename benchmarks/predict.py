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
from residua.deploy.engine import engine
from residua.deploy.predict import BATCH, images_in, predictions, read


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--engines", nargs="+", default=["torch", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    paths = list(images_in(arguments.folder))
    net = create_model(arguments.model)  # new weights: they are as fast as trained ones
    config = ModelConfig(
        network=net.plan.network, classes=tuple(f"class {k}" for k in range(net.plan.network.classes)),
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256,
    )  # fmt: skip
    pixels = torch.stack([image.pixels for image in read(paths, config) if image.pixels is not None])
    print(f"{len(paths):,} files, {len(pixels):,} images, batches of {BATCH}, {torch.get_num_threads()} threads of PyTorch\n")
    print("| engine | decoding alone | inference alone | both | of the slower |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(net, config, Path(folder, "model"))
        for name in arguments.engines:
            classify = engine(Path(folder, "model"), name)
            classify(pixels[:BATCH])  # which compiles
            ways: dict[str, Callable[[], object]] = {
                "decoding": lambda: [None for _ in read(paths, config)],
                "inference": lambda: [classify(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)],  # noqa: B023
                "both": lambda: [None for _ in predictions(paths, classify, config)],  # noqa: B023
            }
            rounds = [{way: len(paths) / seconds(work) for way, work in ways.items()} for _ in range(arguments.rounds)]
            rate = {way: statistics.median(r[way] for r in rounds) for way in ways}
            share = statistics.median(r["both"] / min(r["decoding"], r["inference"]) for r in rounds)
            low, high = [f(r["both"] / min(r["decoding"], r["inference"]) for r in rounds) for f in (min, max)]
            print(
                f"| {classify.name} | {rate['decoding']:,.0f} /s | {rate['inference']:,.0f} /s | {rate['both']:,.0f} /s "
                f"| {share:.2f} ({low:.2f} to {high:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
