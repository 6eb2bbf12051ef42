"""Wrong predictions of each engine and of int8 on the test images of a data set.

    python benchmarks/accuracy.py MODEL DATA [--data-dir DIR]

MODEL is a run's or a model folder; DATA is a data set or a photo folder with the model's classes.
The result shows the accuracy that bf16 and int8 cost.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.images import Images
from residua.deploy.engine import build_onnx_engine, build_openvino_engine, build_torch_engine
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.int8 import load_int8_samples, write_int8_onnx
from residua.deploy.runners import make_onnx_runner, make_openvino_runner
from residua.net.model_folder import find_model_folder, load_model_folder

Classifier = Callable[[Tensor], Tensor]  # (n, c, h, w) uint8 -> probabilities or scores


def make_classifiers(
    net: nn.Module, config: ModelConfig, calibration_pixels: Tensor
) -> dict[str, Classifier]:
    """The contenders by name; the first is PyTorch in fp32 as the network was built."""
    classifiers: dict[str, Classifier] = {
        "PyTorch as built, fp32": lambda x: net(normalise_pixels(x, config.mean, config.std))
    }
    for engine in (
        build_torch_engine(net, config, "fp32"),
        build_torch_engine(net, config),
        build_onnx_engine(net, config),
        build_openvino_engine(net, config),
    ):
        classifiers[f"residua, {engine.description}"] = engine
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        module = ExportableClassifier(net, config, bake_preprocessing=True)
        write_int8_onnx(module, config, calibration_pixels, file)
        for name, run_exported in (
            ("ONNX Runtime", make_onnx_runner(file.read_bytes())),
            ("OpenVINO", make_openvino_runner(file, "bf16")),
        ):
            classifiers[f"{name} int8"] = lambda x, run=run_exported: run(x)[1]
    return classifiers


def count_wrong(classify: Classifier, images: Images) -> int:
    with torch.inference_mode():
        predictions = torch.cat(
            [classify(batch.contiguous()).argmax(1) for batch in images.pixels.split(100)]
        )
    return int((predictions != images.labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    net, config = load_model_folder(find_model_folder(arguments.model))
    samples = load_int8_samples(arguments.data, config, arguments.data_dir)
    classifiers = make_classifiers(net, config, samples.calibration_pixels)
    images = samples.held_out
    print(
        f"{config.network.name}, {len(images):,} test images of {samples.dataset_name}; "
        f"int8 calibrated on {len(samples.calibration_pixels)} training images\n"
    )
    print("| engine | wrong | error | difference to fp32, points |\n|---|---|---|---|")
    fp32_wrong = None
    for name, classify in classifiers.items():
        wrong = count_wrong(classify, images)
        fp32_wrong = wrong if fp32_wrong is None else fp32_wrong
        error = 100 * wrong / len(images)
        difference = 100 * (wrong - fp32_wrong) / len(images)
        print(f"| {name} | {wrong} | {error:.2f} % | {difference:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
