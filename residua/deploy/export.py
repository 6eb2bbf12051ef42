"""Exports a trained network to one file for other programs, and checks the file against PyTorch."""

from pathlib import Path
from typing import get_args

from torch import nn

from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.deploy.export_check import CHECKED_BATCH_SIZES, measure_output_difference
from residua.deploy.export_files import (
    ExportFormat,
    load_exported_runner,
    write_export,
    write_int8_export,
)
from residua.deploy.export_metadata import describe_input
from residua.deploy.inference_module import InferenceModule
from residua.deploy.int8 import Int8Samples, load_int8_samples, measure_int8_cost
from residua.deploy.translate import ONNX_OPSET
from residua.errors import RecordError, UsageError, unknown_name_error
from residua.extras import require_extra
from residua.files import atomic_write


def export_model(
    net: nn.Module,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
    *,
    bake_preprocessing: bool = False,
    calibration_source: str = "",
    data_dir: Path | None = None,
) -> dict[str, Json]:
    """Write a network to `out` in a format for other programs, and check the file.

    `out` is an ONNX file, a folder with OpenVINO's two files, or a `torch.export` archive.  It
    takes batches of any size and returns scores and probabilities.  With `bake_preprocessing` it
    takes uint8 images and normalises them itself.  With `calibration_source`, a data set or a photo
    folder, the network is quantised to int8; otherwise it is in fp32.

    Returns facts about the file: in fp32, how far its outputs differ from PyTorch's; in int8, how
    its predictions compare with those in fp32.

    Raises UsageError if the format is unknown or not installed, or `out` exists; RecordError if the
    fp32 outputs differ by more than `EXPORT_TOLERANCE`.  Nothing is written on an error.
    """
    check_export_target(export_format, out, to_int8=bool(calibration_source))
    module = InferenceModule(net, config, bake_preprocessing=bake_preprocessing)
    facts: dict[str, Json] = {
        "file": str(out),
        "format": export_format,
        **({"opset": ONNX_OPSET} if export_format == "onnx" else {}),
        "model": config.network.name,
        "classes": len(config.classes),
        "takes": describe_input(module),
    }
    if calibration_source:
        samples = load_int8_samples(calibration_source, config, data_dir)
        return facts | export_int8(module, config, export_format, out, samples)
    return facts | export_fp32(module, net, config, export_format, out)


def check_export_target(export_format: str, out: Path, to_int8: bool) -> None:
    """Raise UsageError if the format is unknown, not installed or impossible, or `out` exists."""
    if export_format not in get_args(ExportFormat):
        raise unknown_name_error("format", export_format, get_args(ExportFormat))
    if to_int8 and export_format == "torch-export":
        raise UsageError("int8 is for onnx and openvino: leave --int8 out, or choose --to onnx")
    if export_format != "torch-export":
        require_extra(export_format)
    if to_int8:
        require_extra("onnx")
    if out.exists():
        raise UsageError(f"{out} already exists: choose another --out")


def export_fp32(
    module: InferenceModule,
    net: nn.Module,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
) -> dict[str, Json]:
    """Write `out` in fp32, and check its outputs against those of `net`.

    Raises RecordError, and leaves no file, if they differ by more than `EXPORT_TOLERANCE`.
    """
    with atomic_write(out) as temporary_path:
        write_export(module, config, export_format, temporary_path)
        run_exported = load_exported_runner(export_format, temporary_path)
        difference = measure_output_difference(run_exported, module, net, config)
        if not difference.is_within_tolerance:
            raise RecordError(
                f"{out} was not written: its probabilities differ from PyTorch's by "
                f"{difference.probability_difference:.1e}, "
                f"its scores by {difference.score_difference:.1e}"
            )
    return {
        "difference": difference.probability_difference,
        "score_difference": difference.score_difference,
        "largest_score": difference.largest_score,
        "batches": list(CHECKED_BATCH_SIZES),
    }


def export_int8(
    module: InferenceModule,
    config: ModelConfig,
    export_format: ExportFormat,
    out: Path,
    samples: Int8Samples,
) -> dict[str, Json]:
    """Write `out` in int8, and compare its predictions with fp32 on the held-out images."""
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
