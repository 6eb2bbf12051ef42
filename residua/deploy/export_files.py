"""Writes and loads the files of each export format."""

import json
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from residua.config.model import ModelConfig
from residua.deploy.export_metadata import METADATA_SECTION, make_export_metadata
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.int8 import write_int8_onnx
from residua.deploy.runners import ExportedRunner, make_onnx_runner, make_openvino_runner
from residua.deploy.translate import (
    convert_to_openvino,
    export_onnx_program,
    export_torch_program,
    import_openvino,
    silence_exporters,
)
from residua.errors import RecordError

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

ExportFormat = Literal["onnx", "openvino", "torch-export"]


def write_export(
    module: ExportableClassifier, config: ModelConfig, export_format: ExportFormat, path: Path
) -> None:
    """Write a module in fp32, with its metadata, to the file or (for OpenVINO) the folder `path`.

    Raises RecordError if OpenVINO cannot write its files.
    """
    metadata = make_export_metadata(config, module)
    match export_format:
        case "onnx":
            program = export_onnx_program(module)
            program.model.metadata_props.update(metadata)
            path.write_bytes(program.model_proto.SerializeToString())
        case "torch-export":
            archive = BytesIO()
            with silence_exporters():
                torch.export.save(
                    export_torch_program(module),
                    archive,
                    extra_files={f"{METADATA_SECTION}.json": json.dumps(metadata)},
                )
            path.write_bytes(archive.getvalue())
        case "openvino":
            write_openvino_folder(convert_to_openvino(module), path, metadata)


def write_int8_export(
    module: ExportableClassifier,
    config: ModelConfig,
    export_format: ExportFormat,
    path: Path,
    calibration_pixels: Tensor,
) -> None:
    """Quantise a module to int8 and write it, with its metadata, to `path`.

    The quantisation is calibrated on images (n, c, h, w) uint8.  ONNX Runtime quantises the network
    to an ONNX file, which is then converted if the format is OpenVINO.  Raises RecordError if
    OpenVINO cannot write its files.
    """
    import onnx

    metadata = make_export_metadata(config, module) | {
        "precision": f"int8, calibrated on {len(calibration_pixels)} images"
    }
    with TemporaryDirectory(dir=path.parent) as folder:  # deleted with it after a kill, too
        onnx_file = Path(folder) / "int8.onnx"
        write_int8_onnx(module, config, calibration_pixels, onnx_file)
        if export_format == "openvino":
            openvino = import_openvino()
            write_openvino_folder(openvino.Core().read_model(onnx_file), path, metadata)
            return
        model = onnx.load(onnx_file)
    onnx.helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())


def write_openvino_folder(model: "openvino.Model", path: Path, metadata: dict[str, str]) -> None:
    """Write an OpenVINO model, with its metadata, as model.xml and model.bin in a new folder.

    Raises RecordError if OpenVINO cannot write these files.
    """
    openvino = import_openvino()
    path.mkdir()
    for name, text in metadata.items():
        model.set_rt_info(text, [METADATA_SECTION, name])
    try:
        openvino.save_model(model, path / "model.xml", compress_to_fp16=False)
    except RuntimeError as error:  # e.g. a full disk
        raise RecordError(f"no model was written: {str(error).splitlines()[-1]}") from error


def load_exported_runner(export_format: ExportFormat, path: Path) -> ExportedRunner:
    """Load an exported file with the library for its format, and return the function that runs it.

    The function runs on the CPU; layers that are not quantised compute in fp32.
    """
    match export_format:
        case "onnx":
            return make_onnx_runner(path.read_bytes())
        case "openvino":
            return make_openvino_runner(path / "model.xml")
    with silence_exporters():
        module = torch.export.load(BytesIO(path.read_bytes())).module()

    def run_exported(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, probabilities = module(images)
        return scores, probabilities

    return run_exported
