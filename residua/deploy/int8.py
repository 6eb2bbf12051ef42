"""Weights and activations of 8 bits, in ranges that real images show; and what that costs in accuracy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.data.augment import normalise
from residua.data.counter import permutation
from residua.data.folder import data_of
from residua.data.read import Images, read
from residua.deploy.graph import Graph
from residua.deploy.translate import onnx_program, quiet
from residua.errors import DataError, UsageError
from residua.spec.model import ModelConfig
from residua.spec.text import Json

CALIBRATING = 512  # images that show the ranges of activations; our choice
TOGETHER = 32


@dataclass(frozen=True, slots=True)
class Samples:
    """Real images (n, c, h, w) uint8: some to calibrate by, and others, with labels (n,), to count errors on."""

    calibrating: Tensor
    held_out: Images
    labelled: bool  # whether the labels are numbers of the model's own classes
    source: str


def samples(name: str, config: ModelConfig, data_dir: Path | None = None) -> Samples:
    """Of a data set or a folder of photographs, training images to calibrate by and test images to count errors on.

    Raises UsageError for images of another shape, DataError where none are held out.
    """
    data = data_of(name, config.input)
    if data.input != config.input:
        raise UsageError(f"{config.network.name} takes images of {config.input}, but those of {data.name} are {data.input}")
    train = read(data, "train", data_dir).middle(config.input[1:])
    held_out = read(data, "test", data_dir)
    if not len(held_out):
        raise DataError(f"{name} holds no test images, so that nothing says what int8 costs: put some into {Path(name) / 'test'}")
    return Samples(train.pixels[permutation(len(train), 0)[:CALIBRATING]], held_out, data.classes == config.classes, data.name)


def write_int8(graph: Graph, config: ModelConfig, calibrating: Tensor, path: Path) -> None:
    """An ONNX file whose convolutions, sums and matrix products are of int8: weights by channel, activations uint8.

    Each has a scale, and so has each activation by the least and largest value that the images bring it (ONNX's QDQ format).
    """
    with quiet():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # type: ignore[import-untyped]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The images in batches, as the graph takes them."""

        def __init__(self) -> None:
            self.batches = fed(graph, config, calibrating)

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {graph.takes: batch.numpy()}

    with TemporaryDirectory() as folder, quiet():
        whole = Path(folder) / "fp32.onnx"
        whole.write_bytes(onnx_program(graph).model_proto.SerializeToString())
        quantize_static(
            whole, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
        )  # fmt: skip


def fed(graph: Graph, config: ModelConfig, pixels: Tensor) -> Iterator[Tensor]:
    """uint8 images in batches, as the graph takes them."""
    for batch in torch.split(pixels, TOGETHER):
        yield batch.contiguous() if graph.bakes else normalise(batch, config.mean, config.std).contiguous()


def cost(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], graph: Graph, config: ModelConfig, real: Samples
) -> dict[str, Json]:
    """Held-out images that are wrong by the scores of `before` and of `after`, and how often both say the same, as shares."""
    batches = list(fed(graph, config, real.held_out.pixels))
    one, two = (torch.cat([scores(batch).argmax(1) for batch in batches]) for scores in (before, after))
    found: dict[str, Json] = {
        "calibrated_on": len(real.calibrating), "images": len(one), "source": real.source,
        "agreement": (one == two).double().mean().item(),
    }  # fmt: skip
    if real.labelled:
        labels = real.held_out.labels
        found |= {"fp32_error": (one != labels).double().mean().item(), "int8_error": (two != labels).double().mean().item()}
    return found
