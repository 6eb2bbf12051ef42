"""A model folder -> one file for other programs, held against PyTorch before it is put in place."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
from torch import Tensor

from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.data.augment import normalise_pixels
from residua.deploy.inference_module import InferenceModule
from residua.deploy.int8 import load_int8_samples, measure_int8_cost, write_int8_onnx
from residua.deploy.runners import ExportedRunner, make_onnx_runner, make_openvino_runner
from residua.deploy.translate import (
    ONNX_OPSET,
    convert_to_openvino,
    export_onnx_program,
    export_torch_program,
    silence_exporters,
)
from residua.errors import RecordError, UsageError, unknown_name_error
from residua.extras import require_extra
from residua.files import atomic_write
from residua.net.model_folder import from_pretrained, read_model_config
from residua.training.evaluate import find_model_folder

ExportFormat = Literal["onnx", "openvino", "torch-export"]
EXPORT_TOLERANCE = 1e-4  # of the difference to PyTorch: of probabilities, and of scores in shares of the largest, or of 1
CHECKED_BATCH_SIZES = (
    1,
    5,
)  # sizes that the file is tried at; an example of 2 is what it is made from
METADATA_SECTION = "residua"  # the section of metadata, where a format has sections


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """Between a file's outputs and PyTorch's in fp32, at most."""

    score_difference: float
    probability_difference: float
    largest_score: float  # score, without its sign

    @property
    def is_within_tolerance(self) -> bool:
        return (
            self.score_difference <= EXPORT_TOLERANCE * max(1.0, self.largest_score)
            and self.probability_difference <= EXPORT_TOLERANCE
        )


def export_model(
    folder: Path,
    export_format: ExportFormat,
    out: Path,
    *,
    bake_preprocessing: bool = False,
    calibration_source: str = "",
    data_dir: Path | None = None,
) -> dict[str, Json]:
    """Write `out`, an ONNX file, a folder of OpenVINO's two files, or a `torch.export` archive; says what was found.

    It takes any number of images and gives scores and probabilities, in evaluation mode; with `bakes` it takes uint8 images
    and normalises them itself.  Its metadata are those of `metadata`.  With `images`, a folder or a data set, it is of int8, and
    what that costs is said, instead of a difference that is held against ALLOWED.  Raises UsageError for a format that does not
    exist, is not installed, or an `out` that does; RecordError for a damaged folder, and where its outputs are not PyTorch's.
    """
    check_export_target(export_format, out, bool(calibration_source))
    folder = find_model_folder(folder)
    config = read_model_config(folder)
    module = InferenceModule(from_pretrained(folder), config, bake_preprocessing=bake_preprocessing)
    facts: dict[str, Json] = {
        "file": str(out),
        "format": export_format,
        **({"opset": ONNX_OPSET} if export_format == "onnx" else {}),
        "model": config.network.name,
        "classes": len(config.classes),
        "takes": describe_input(module),
    }
    if calibration_source:
        int8_samples = load_int8_samples(calibration_source, config, data_dir)
        with atomic_write(out) as temporary_path:
            write_int8_export(
                module, export_format, temporary_path, config, int8_samples.calibration_pixels
            )
            run_exported = load_exported_runner(export_format, temporary_path)
            int8_cost = measure_int8_cost(
                lambda batch: module(batch)[0],
                lambda batch: run_exported(batch)[0],
                module,
                config,
                int8_samples,
            )
        return facts | int8_cost
    with atomic_write(out) as temporary_path:
        write_export(module, export_format, temporary_path, make_export_metadata(config, module))
        difference = measure_output_difference(
            load_exported_runner(export_format, temporary_path), module, config, folder
        )
        if not difference.is_within_tolerance:
            raise RecordError(
                f"{out} was not written: its probabilities differ from PyTorch's by {difference.probability_difference:.1e}, "
                f"its scores by {difference.score_difference:.1e}"
            )
    return facts | {
        "difference": difference.probability_difference,
        "score_difference": difference.score_difference,
        "largest_score": difference.largest_score,
        "batches": list(CHECKED_BATCH_SIZES),
    }


def check_export_target(export_format: str, out: Path, to_int8: bool) -> None:
    """UsageError where a format cannot be written, or `out` stands already."""
    if export_format not in get_args(ExportFormat):
        raise unknown_name_error("format", export_format, get_args(ExportFormat))
    if to_int8 and export_format == "torch-export":
        raise UsageError("int8 is for onnx and openvino: leave --int8 out, or choose --to onnx")
    if export_format != "torch-export":
        require_extra(export_format)
    if to_int8:
        require_extra("onnx")
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")


def describe_input(module: InferenceModule) -> str:
    """The input in words."""
    return f"{module.input_name}: (batch, {', '.join(map(str, module.input_shape))}) {'uint8' if module.bakes_preprocessing else 'fp32, normalised'}"


def make_export_metadata(config: ModelConfig, module: InferenceModule) -> dict[str, str]:
    """What travels in the file: strings, JSON where they are not words."""
    height, width = config.input[1:]
    resize_words = (
        f"the shorter side to {config.resize}, then the middle {height} x {width}"
        if config.resize
        else f"to {height} x {width}"
    )
    return {
        "model": config.network.name,
        "classes": json.dumps(config.classes),
        "input": json.dumps(config.input),
        "takes": describe_input(module),
        "mean": json.dumps(config.mean),
        "std": json.dumps(config.std),
        "resize": json.dumps(config.resize),
        "interpolation": config.interpolation,
        "temperature": json.dumps(config.temperature),
        "preprocessing": f"RGB, resized ({config.interpolation}, without aliasing) {resize_words}"
        + (
            ""
            if module.bakes_preprocessing
            else "; then (pixels / 255 - mean) / std, channel by channel"
        ),
        "residua": version("residua"),
    }


def write_export(
    module: InferenceModule, export_format: ExportFormat, path: Path, metadata: dict[str, str]
) -> None:
    """The graph with its metadata; RecordError where the libraries cannot write."""
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
    module: InferenceModule,
    export_format: ExportFormat,
    path: Path,
    config: ModelConfig,
    calibration_pixels: Tensor,
) -> None:
    """The graph in int8, with its metadata; OpenVINO reads what ONNX Runtime has quantised."""
    import onnx

    export_metadata = {
        **make_export_metadata(config, module),
        "precision": f"int8, calibrated on {len(calibration_pixels)} images",
    }
    with TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "int8.onnx"
        write_int8_onnx(module, config, calibration_pixels, onnx_file)
        if export_format == "openvino":
            import openvino  # type: ignore[import-untyped]

            write_openvino_folder(openvino.Core().read_model(onnx_file), path, export_metadata)
            return
        model = onnx.load(onnx_file)
    onnx.helper.set_model_props(model, export_metadata)
    path.write_bytes(model.SerializeToString())


def write_openvino_folder(model: object, path: Path, metadata: dict[str, str]) -> None:
    """A folder of model.xml and model.bin."""
    import openvino

    path.mkdir()
    for name, text in metadata.items():
        model.set_rt_info(text, [METADATA_SECTION, name])  # type: ignore[attr-defined]
    try:
        openvino.save_model(model, path / "model.xml", compress_to_fp16=False)
    except RuntimeError as error:  # a full disk
        raise RecordError(f"no model was written: {str(error).splitlines()[-1]}") from error


def load_exported_runner(export_format: ExportFormat, path: Path) -> ExportedRunner:
    """What runs a written file by its own library, in fp32."""
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


@torch.inference_mode()
def measure_output_difference(
    run_exported: ExportedRunner, module: InferenceModule, config: ModelConfig, folder: Path
) -> OutputDifference:
    """A file against the network of the model folder, not folded, on images of noise in batches of BATCHES."""
    net, difference = from_pretrained(folder), OutputDifference(0.0, 0.0, 0.0)
    for count in CHECKED_BATCH_SIZES:
        pixels = torch.randint(
            256,
            (count, *module.input_shape),
            generator=torch.Generator().manual_seed(count),
            dtype=torch.uint8,
        )
        images = normalise_pixels(pixels, config.mean, config.std)
        expected_scores = net(images)
        scores, probabilities = run_exported(pixels if module.bakes_preprocessing else images)
        difference = OutputDifference(
            max(difference.score_difference, max_abs(scores - expected_scores)),
            max(
                difference.probability_difference,
                max_abs(probabilities - torch.softmax(expected_scores / config.temperature, 1)),
            ),
            max(difference.largest_score, max_abs(expected_scores)),
        )
    return difference


def max_abs(x: Tensor) -> float:
    """From 0."""
    return x.abs().max().item()
