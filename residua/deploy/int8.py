"""Weights and activations of 8 bits, in ranges that real images show; and what that costs in accuracy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.data.augment import normalise_pixels
from residua.data.counter_rng import random_permutation
from residua.data.read import Images, read_split
from residua.data.sources.image_folder import resolve_dataset
from residua.deploy.inference_module import InferenceModule
from residua.deploy.translate import export_onnx_program, silence_exporters
from residua.errors import DataError, UsageError

MAX_CALIBRATION_IMAGES = 512  # images that show the ranges of activations; our choice
INT8_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Int8Samples:
    """Real images (n, c, h, w) uint8: some to calibrate by, and others, with labels (n,), to count errors on."""

    calibration_pixels: Tensor
    held_out: Images
    labels_match_model: bool  # whether the labels are numbers of the model's own classes
    dataset_name: str


def load_int8_samples(
    source: str, config: ModelConfig, data_dir: Path | None = None
) -> Int8Samples:
    """Of a data set or a folder of photographs, training images to calibrate by and test images to count errors on.

    Raises UsageError for images of another shape, DataError where none are held out.
    """
    data = resolve_dataset(source, config.input)
    if data.input != config.input:
        raise UsageError(
            f"{config.network.name} takes images of {config.input}, but those of {data.name} are {data.input}"
        )
    train = read_split(data, "train", data_dir).center_crop(config.input[1:])
    held_out = read_split(data, "test", data_dir)
    if not len(held_out):
        raise DataError(
            f"{source} holds no test images, so that nothing says what int8 costs: put some into {Path(source) / 'test'}"
        )
    return Int8Samples(
        train.pixels[random_permutation(len(train), 0)[:MAX_CALIBRATION_IMAGES]],
        held_out,
        data.classes == config.classes,
        data.name,
    )


def write_int8_onnx(
    module: InferenceModule, config: ModelConfig, calibration_pixels: Tensor, path: Path
) -> None:
    """An ONNX file whose convolutions, sums and matrix products are of int8: weights by channel, activations uint8.

    Each has a scale, and so has each activation by the least and largest value that the images bring it (ONNX's QDQ format).
    """
    with silence_exporters():
        from onnxruntime.quantization import (  # type: ignore[import-untyped]
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )

    class BatchReader(CalibrationDataReader):  # type: ignore[misc]
        """The images in batches, as the graph takes them."""

        def __init__(self) -> None:
            self.batches = iterate_input_batches(module, config, calibration_pixels)

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {module.input_name: batch.numpy()}

    with TemporaryDirectory() as folder, silence_exporters():
        fp32_file = Path(folder) / "fp32.onnx"
        fp32_file.write_bytes(export_onnx_program(module).model_proto.SerializeToString())
        quantize_static(
            fp32_file,
            path,
            BatchReader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
        )


def iterate_input_batches(
    module: InferenceModule, config: ModelConfig, pixels: Tensor
) -> Iterator[Tensor]:
    """uint8 images in batches, as the graph takes them."""
    for batch in torch.split(pixels, INT8_BATCH_SIZE):
        yield (
            batch.contiguous()
            if module.bakes_preprocessing
            else normalise_pixels(batch, config.mean, config.std).contiguous()
        )


def measure_int8_cost(
    compute_fp32_scores: Callable[[Tensor], Tensor],
    compute_int8_scores: Callable[[Tensor], Tensor],
    module: InferenceModule,
    config: ModelConfig,
    int8_samples: Int8Samples,
) -> dict[str, Json]:
    """Held-out images that are wrong by the scores of `before` and of `after`, and how often both say the same, as shares."""
    batches = list(iterate_input_batches(module, config, int8_samples.held_out.pixels))
    fp32_predictions, int8_predictions = (
        torch.cat([scores(batch).argmax(1) for batch in batches])
        for scores in (compute_fp32_scores, compute_int8_scores)
    )
    results: dict[str, Json] = {
        "calibrated_on": len(int8_samples.calibration_pixels),
        "images": len(fp32_predictions),
        "source": int8_samples.dataset_name,
        "agreement": (fp32_predictions == int8_predictions).double().mean().item(),
    }
    if int8_samples.labels_match_model:
        labels = int8_samples.held_out.labels
        results |= {
            "fp32_error": (fp32_predictions != labels).double().mean().item(),
            "int8_error": (int8_predictions != labels).double().mean().item(),
        }
    return results
