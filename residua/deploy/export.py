"""Exports a trained network for other programs, and compares the exported file with PyTorch."""

from collections.abc import Callable
from math import isinf
from pathlib import Path
from typing import get_args

from torch import nn

from residua.config.model import MAX_IMAGE_PIXELS, ModelConfig
from residua.config.serialize import Json
from residua.data.summary import DataSummary, ignore_summary
from residua.deploy.export_check import (
    CHECKED_BATCH_SIZES,
    OutputDifference,
    measure_output_difference,
)
from residua.deploy.export_files import (
    ExportFormat,
    load_exported_runner,
    write_export,
    write_int8_export,
)
from residua.deploy.export_metadata import describe_input
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.int8 import Int8Samples, load_int8_samples, measure_int8_cost
from residua.deploy.translate import ONNX_OPSET
from residua.errors import RecordError, UsageError, unknown_name_error
from residua.extras import require_extra
from residua.files import atomic_write, claim_new_output


def export_model(
    net: nn.Module,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
    *,
    bake_preprocessing: bool = False,
    calibration_source: str = "",
    data_dir: Path | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
    on_data: Callable[[DataSummary], None] = ignore_summary,
) -> dict[str, Json]:
    """Write a network to `out` in a format for other programs, and check the written file.

    `out` is an ONNX file, a folder with OpenVINO's two files, or a `torch.export` archive.  The
    exported model takes batches of any size and returns scores and probabilities.  The caller must
    pass it normalised images; with `bake_preprocessing` it takes uint8 images and normalises them
    itself.  With `calibration_source` (a data set's name or a photo folder), the model is quantised
    to int8; otherwise it is in fp32.  Photos of more than `max_pixels` pixels are left out.
    `on_data` gets a summary of the images for int8.

    Returns a dict that describes the file and its input; its `temperature` is the divisor of the
    scores before the softmax.  For fp32 the dict also holds the largest differences from PyTorch's
    outputs; for int8, how often int8 and fp32 predict the same class.

    Raises UsageError if the format is unknown, not installed or not available in int8, or if `out`
    exists; RecordError if the fp32 outputs differ by more than `EXPORT_TOLERANCE`.  Nothing is
    written on an error.
    """
    check_export_format(export_format, to_int8=bool(calibration_source))
    module = ExportableClassifier(net, config, bake_preprocessing=bake_preprocessing)
    facts: dict[str, Json] = {
        "file": str(out),
        "format": export_format,
        **({"opset": ONNX_OPSET} if export_format == "onnx" else {}),
        "model": config.network.name,
        "classes": len(config.classes),
        "takes": describe_input(module),
        "temperature": config.temperature,
    }
    with claim_new_output(out):
        if calibration_source:
            samples = load_int8_samples(calibration_source, config, data_dir, max_pixels, on_data)
            return facts | export_int8(module, config, export_format, out, samples)
        return facts | export_fp32(module, net, config, export_format, out)


def check_export_format(export_format: str, to_int8: bool) -> None:
    """Raise UsageError if the format is unknown, not installed or not available in int8."""
    if export_format not in get_args(ExportFormat):
        raise unknown_name_error("format", export_format, get_args(ExportFormat))
    if to_int8 and export_format == "torch-export":
        raise UsageError("int8 is for onnx and openvino: leave --int8 out, or choose --to onnx")
    if export_format != "torch-export":
        require_extra(export_format)
    if to_int8:
        require_extra("onnx")


def export_fp32(
    module: ExportableClassifier,
    net: nn.Module,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
) -> dict[str, Json]:
    """Export `module` to `out` in fp32, and compare the outputs with those of `net`.

    Returns the largest differences and the batch sizes of the comparison.  Raises RecordError, and
    leaves no file, if the outputs differ by more than `EXPORT_TOLERANCE`.
    """
    with atomic_write(out) as temporary_path:
        write_export(module, config, export_format, temporary_path)
        run_exported = load_exported_runner(export_format, temporary_path)
        difference = measure_output_difference(run_exported, module, net, config)
        if not difference.is_within_tolerance:
            raise RecordError(f"{out} was not written: {describe_difference(difference)}")
    return {
        "difference": difference.probability_difference,
        "score_difference": difference.score_difference,
        "largest_score": difference.largest_score,
        "batches": list(CHECKED_BATCH_SIZES),
    }


def describe_difference(difference: OutputDifference) -> str:
    """Say how the outputs of an exported model differ from those of PyTorch."""
    if isinf(difference.probability_difference) or isinf(difference.score_difference):
        return "its outputs, or those of PyTorch, are not finite"
    return (
        "its probabilities differ from PyTorch's by "
        f"{difference.probability_difference:.1e}, its scores by {difference.score_difference:.1e}"
    )


def export_int8(
    module: ExportableClassifier,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
    samples: Int8Samples,
) -> dict[str, Json]:
    """Export `module` to `out` in int8; compare its predictions on held-out images with fp32."""
    with atomic_write(out) as temporary_path:
        write_int8_export(module, config, export_format, temporary_path, samples.calibration_pixels)
        run_exported = load_exported_runner(export_format, temporary_path)
        return measure_int8_cost(
            lambda batch: module(batch)[0],
            lambda batch: run_exported(batch)[0],
            module,
            config,
            samples,
        )
