"""Wrong answers of each engine, and of int8, on the test images of a data set: what speed costs in accuracy.

    python benchmarks/accuracy.py MODEL DATA [--data-dir DIR]

MODEL is a run's or a model folder, DATA a data set or a folder of photographs with the model's classes.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from residua.data.augment import normalise_pixels
from residua.deploy.engine import build_onnx_engine, build_openvino_engine, build_torch_engine
from residua.deploy.inference_module import InferenceModule
from residua.deploy.int8 import load_int8_samples, write_int8_onnx
from residua.deploy.runners import make_onnx_runner, make_openvino_runner
from residua.net.model_folder import from_pretrained, read_model_config
from residua.training.evaluate import find_model_folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    folder = find_model_folder(arguments.model)
    config, net = read_model_config(folder), from_pretrained(folder)
    image_sets = load_int8_samples(arguments.data, config, arguments.data_dir)
    classifiers: dict[str, Callable[[Tensor], Tensor]] = {
        "PyTorch as built, fp32": lambda x: net(normalise_pixels(x, config.mean, config.std))
    }
    for engine in (
        build_torch_engine(net, config, "fp32"),
        build_torch_engine(net, config),
        build_onnx_engine(net, config),
        build_openvino_engine(net, config),
    ):
        classifiers[f"residua, {engine.description}"] = engine
    with tempfile.TemporaryDirectory() as temporary_folder:
        file = Path(temporary_folder) / "int8.onnx"
        write_int8_onnx(
            InferenceModule(net, config, bake_preprocessing=True),
            config,
            image_sets.calibration_pixels,
            file,
        )
        for name, classify in (
            ("ONNX Runtime", make_onnx_runner(file.read_bytes())),
            ("OpenVINO", make_openvino_runner(file, "bf16")),
        ):
            classifiers[f"{name} int8"] = lambda x, run=classify: run(x)[1]
    images = image_sets.held_out
    print(
        f"{config.network.name}, {len(images):,} test images of {image_sets.dataset_name}; int8 calibrated on {len(image_sets.calibration_pixels)} others\n"
    )
    print("| engine | wrong | error | points beside fp32 |\n|---|---|---|---|")
    fp32_wrong = None
    for name, classify in classifiers.items():
        with torch.inference_mode():
            predictions = torch.cat(
                [classify(batch.contiguous()).argmax(1) for batch in images.pixels.split(100)]
            )
        wrong = int((predictions != images.labels).sum())
        fp32_wrong = wrong if fp32_wrong is None else fp32_wrong
        print(
            f"| {name} | {wrong} | {100 * wrong / len(images):.2f} % | {100 * (wrong - fp32_wrong) / len(images):+.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
