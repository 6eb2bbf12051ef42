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

from residua.data.augment import normalise
from residua.deploy.engine import onnx_engine, openvino_engine, torch_engine
from residua.deploy.graph import Graph
from residua.deploy.int8 import samples, write_int8
from residua.deploy.runners import onnx_runner, openvino_runner
from residua.net.folder import from_pretrained, read_config
from residua.train.evaluate import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    folder = model_folder(arguments.model)
    config, net = read_config(folder), from_pretrained(folder)
    real = samples(arguments.data, config, arguments.data_dir)
    contenders: dict[str, Callable[[Tensor], Tensor]] = {
        "PyTorch as built, fp32": lambda x: net(normalise(x, config.mean, config.std))
    }
    for made in (
        torch_engine(net, config, "fp32"),
        torch_engine(net, config),
        onnx_engine(net, config),
        openvino_engine(net, config),
    ):
        contenders[f"residua, {made.name}"] = made
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "int8.onnx"
        write_int8(Graph(net, config, bakes=True), config, real.calibrating, file)
        for name, run in (("ONNX Runtime", onnx_runner(file.read_bytes())), ("OpenVINO", openvino_runner(file, "bf16"))):
            contenders[f"{name} int8"] = lambda x, run=run: run(x)[1]
    images = real.held_out
    print(
        f"{config.network.name}, {len(images):,} test images of {real.source}; int8 calibrated on {len(real.calibrating)} others\n"
    )
    print("| engine | wrong | error | points beside fp32 |\n|---|---|---|---|")
    first = None
    for name, run in contenders.items():
        with torch.inference_mode():
            answers = torch.cat([run(batch.contiguous()).argmax(1) for batch in images.pixels.split(100)])
        wrong = int((answers != images.labels).sum())
        first = wrong if first is None else first
        print(f"| {name} | {wrong} | {100 * wrong / len(images):.2f} % | {100 * (wrong - first) / len(images):+.2f} |", flush=True)


if __name__ == "__main__":
    main()
