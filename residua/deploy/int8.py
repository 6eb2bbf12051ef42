"""Quantises a network to int8, calibrated on real images, and measures the cost in accuracy."""

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
from residua.deploy.inference_module import InferenceModule
from residua.deploy.model_images import read_training_crops, resolve_dataset_of_model_shape
from residua.deploy.translate import export_onnx_program, silence_exporters
from residua.errors import DataError

MAX_CALIBRATION_IMAGES = 512  # our choice
INT8_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Int8Samples:
    """Training images for calibration, and test images to compare int8 with fp32 on."""

    calibration_pixels: Tensor  # (n, c, h, w) uint8
    held_out: Images
    labels_match_model: (
        bool  # whether the labels of `held_out` are indices into the model's classes
    )
    dataset_name: str


def load_int8_samples(
    source: str, config: ModelConfig, data_dir: Path | None = None
) -> Int8Samples:
    """Read calibration and test images of `source`, a data set's name or a photo folder.

    Raises UsageError if the shape of the images is not the model's input shape, and DataError if
    there are no test images.
    """
    data = resolve_dataset_of_model_shape(source, config)
    train = read_training_crops(data, config, data_dir)
    held_out = read_split(data, "test", data_dir)
    if not len(held_out):
        raise DataError(
            f"{source} has no test images to measure the accuracy of int8 on: "
            f"put some into {Path(source) / 'test'}"
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
    """Write an ONNX file whose convolutions, matrix products and additions compute in int8.

    Weights are int8 with one scale per output channel; activations are uint8 with one scale per
    tensor, from the smallest and largest value on the calibration images (n, c, h, w) uint8.  The
    file uses ONNX's QDQ format.
    """
    with silence_exporters():
        from onnxruntime.quantization import (  # type: ignore[import-untyped]
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )

    class BatchReader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds the calibration images to ONNX Runtime."""

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
    """Yield images (n, c, h, w) uint8 in batches, normalised unless the module does that itself."""
    for batch in torch.split(pixels, INT8_BATCH_SIZE):
        images = (
            batch
            if module.bakes_preprocessing
            else normalise_pixels(batch, config.mean, config.std)
        )
        yield images.contiguous()


def measure_int8_cost(
    compute_fp32_scores: Callable[[Tensor], Tensor],
    compute_int8_scores: Callable[[Tensor], Tensor],
    module: InferenceModule,
    config: ModelConfig,
    samples: Int8Samples,
) -> dict[str, Json]:
    """Compare the predictions of fp32 and int8 on the test images.

    `agreement` is the share of images with the same prediction.  If the labels match the model,
    `fp32_error` and `int8_error` are the shares of wrong predictions.
    """
    batches = list(iterate_input_batches(module, config, samples.held_out.pixels))
    fp32_predictions, int8_predictions = (
        torch.cat([compute_scores(batch).argmax(1) for batch in batches])
        for compute_scores in (compute_fp32_scores, compute_int8_scores)
    )
    results: dict[str, Json] = {
        "calibrated_on": len(samples.calibration_pixels),
        "images": len(fp32_predictions),
        "source": samples.dataset_name,
        "agreement": (fp32_predictions == int8_predictions).double().mean().item(),
    }
    if samples.labels_match_model:
        labels = samples.held_out.labels
        results |= {
            "fp32_error": (fp32_predictions != labels).double().mean().item(),
            "int8_error": (int8_predictions != labels).double().mean().item(),
        }
    return results
