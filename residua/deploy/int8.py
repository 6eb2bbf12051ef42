"""Quantises a network to int8, calibrated on real images, and measures the loss of accuracy."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.config.model import MAX_IMAGE_PIXELS, ModelConfig
from residua.config.serialize import Json
from residua.data.augment import normalise_pixels
from residua.data.counter_rng import random_permutation
from residua.data.preprocessed_images import read_preprocessed_split
from residua.data.sources.resolve import PhotoDataset
from residua.data.streamed_images import ImageSet
from residua.data.summarize import summarize_evaluated_data
from residua.data.summary import DataSummary, ignore_summary
from residua.data.unseen_images import EvaluatedSplit, choose_images
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.model_images import resolve_labelled_or_not
from residua.deploy.translate import export_onnx_program, silence_exporters
from residua.errors import DataError, RecordError

MAX_CALIBRATION_IMAGES = 512  # our choice
INT8_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Int8Samples:
    """Training images for calibration, and test images on which int8 is compared with fp32."""

    calibration_pixels: Tensor  # (n, c, h, w) uint8
    held_out: ImageSet
    held_out_split: EvaluatedSplit  # "all": what photographs without splits left to compare on
    labels_match_model: (
        bool  # whether the labels of `held_out` are indices into the model's classes
    )
    dataset_name: str


def load_int8_samples(
    source: str,
    config: ModelConfig,
    data_dir: Path | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> Int8Samples:
    """Read images for calibration, and other images to compare int8 with fp32.

    `source` is a data set's name, or photos with or without labels.  Training images are for
    calibration and test images for the comparison.  Photos that have no splits, and that the model
    was not trained on, are all used, one half for each purpose.  `on_data` gets a summary of the
    images, which says what each is used for.  Raises UsageError if the shape of
    the images is not the model's input shape, and DataError if there are too few images.
    """
    data, labels_match_model = resolve_labelled_or_not(source, config)
    if isinstance(data, PhotoDataset):
        data = replace(data, listing=replace(data.listing, max_pixels=max_pixels))
    choice = choose_images(data, None, config)
    named = read_preprocessed_split(choice.dataset, choice.split, config, data_dir)
    held_out, problems = named.images, named.problems
    splits: dict[str, int] = {choice.label: len(held_out)}
    if choice.label == "all":
        if len(held_out) < 2:
            raise DataError(f"{source} has too few images to calibrate int8 on: give at least 2")
        order = random_permutation(len(held_out), 0)
        half = min(len(order) // 2, MAX_CALIBRATION_IMAGES)
        calibration, held_out = held_out[order[:half]], held_out.select(order[half:])
        labels = [*calibration.labels.tolist(), *held_out.labels.tolist()]
    else:
        training = choose_images(data, "train", config)
        named = read_preprocessed_split(training.dataset, training.split, config, data_dir)
        problems = (*problems, *named.problems)
        splits = {"train": len(named.images), **splits}
        labels = [*named.images.labels.tolist(), *held_out.labels.tolist()]
        order = random_permutation(len(named.images), 0)
        calibration = named.images[order[:MAX_CALIBRATION_IMAGES]]
    images = f"{len(calibration):,} image{'s' * (len(calibration) != 1)}"
    others = f"{len(held_out):,} other{'s' * (len(held_out) != 1)}"
    used = (
        f"int8 is calibrated on {images}{' of train' * ('train' in splits)}, and compared with "
        f"fp32 on {others}"
    )
    summary = summarize_evaluated_data(
        choice.dataset, choice.label, labels, dict.fromkeys(problems), used
    )
    # the reason of `training` says what an error on those images is worth, which nobody measures
    notes = (*summary.notes, choice.reason) if choice.reason else summary.notes
    on_data(replace(summary, splits=splits, notes=notes))
    return Int8Samples(calibration.pixels, held_out, choice.label, labels_match_model, data.name)


def write_int8_onnx(
    module: ExportableClassifier, config: ModelConfig, calibration_pixels: Tensor, path: Path
) -> None:
    """Write an ONNX file whose convolutions, matrix products and additions compute in int8.

    Weights are int8 with one scale per output channel.  Activations are uint8 with one scale per
    tensor, which covers the range of its values on the calibration images (n, c, h, w) uint8.  The
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
            self.batches = iterate_input_batches(
                module, config, torch.split(calibration_pixels, INT8_BATCH_SIZE)
            )

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {module.input_name: batch.numpy()}

    with TemporaryDirectory(dir=path.parent) as folder, silence_exporters():
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
    module: ExportableClassifier, config: ModelConfig, batches: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Yield batches of images (n, c, h, w) uint8, normalised unless `module` does so itself."""
    for batch in batches:
        images = (
            batch
            if module.bakes_preprocessing
            else normalise_pixels(batch, config.mean, config.std)
        )
        yield images.contiguous()


def measure_int8_cost(
    compute_fp32_scores: Callable[[Tensor], Tensor],
    compute_int8_scores: Callable[[Tensor], Tensor],
    module: ExportableClassifier,
    config: ModelConfig,
    samples: Int8Samples,
) -> dict[str, Json]:
    """Compare the predictions of fp32 and int8 on the images that were held out.

    In the returned dict, `agreement` is the share of images for which int8 and fp32 predict the
    same class.  `fp32_error` and `int8_error` are the shares of wrong predictions; they are absent
    if the labels are not indices into the model's classes.  Raises RecordError if a score is not
    finite.
    """
    starts = range(0, len(samples.held_out), INT8_BATCH_SIZE)

    def predict(compute_scores: Callable[[Tensor], Tensor], precision: str) -> Tensor:
        parts = samples.held_out.iterate(slice(i, i + INT8_BATCH_SIZE) for i in starts)
        batches = iterate_input_batches(module, config, (part.pixels for part in parts))
        return predict_finite(compute_scores, batches, precision)

    fp32_predictions = predict(compute_fp32_scores, "fp32")
    int8_predictions = predict(compute_int8_scores, "int8")
    results: dict[str, Json] = {
        "calibrated_on": len(samples.calibration_pixels),
        "images": len(fp32_predictions),
        "source": samples.dataset_name,
        "split": samples.held_out_split,
        "agreement": (fp32_predictions == int8_predictions).double().mean().item(),
    }
    if samples.labels_match_model:
        labels = samples.held_out.labels
        results |= {
            "fp32_error": (fp32_predictions != labels).double().mean().item(),
            "int8_error": (int8_predictions != labels).double().mean().item(),
        }
    return results


def predict_finite(
    compute_scores: Callable[[Tensor], Tensor], batches: Iterable[Tensor], precision: str
) -> Tensor:
    """Predict classes (n,) by the largest scores; raise RecordError if a score is not finite."""
    predictions = []
    for batch in batches:
        scores = compute_scores(batch)
        if not scores.isfinite().all():  # argmax takes nan for the largest score
            raise RecordError(
                f"no int8 file was written: scores in {precision} are not finite; leave --int8 out"
            )
        predictions.append(scores.argmax(1))
    return torch.cat(predictions)
