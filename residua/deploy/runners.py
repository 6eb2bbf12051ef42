"""Runs exported models in ONNX Runtime and OpenVINO, on as many CPU threads as PyTorch uses."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from residua.deploy.inference_module import PROBABILITIES_OUTPUT, SCORES_OUTPUT
from residua.deploy.translate import import_openvino

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

ExportedRunner: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps a model's input images (n, c, h, w) to scores and probabilities, each (n, classes)."""


def make_onnx_runner(onnx_bytes: bytes) -> ExportedRunner:
    """Load an ONNX file's bytes into ONNX Runtime, and return the function that runs the model."""
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name

    def run_session(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, probabilities = session.run(
            [SCORES_OUTPUT, PROBABILITIES_OUTPUT], {input_name: images.contiguous().numpy()}
        )
        return torch.from_numpy(scores), torch.from_numpy(probabilities)

    return run_session


def make_openvino_runner(
    model: "openvino.Model | Path", precision: Literal["bf16", "f32"] = "f32"
) -> ExportedRunner:
    """Compile an OpenVINO model for this machine's CPU, and return the function that runs it.

    `model` is the model itself, or the path of an .xml or .onnx file.
    """
    openvino = import_openvino()
    compile_options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(model, "CPU", compile_options)

    def run_compiled(images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = compiled(images.contiguous().numpy())
        # Copies, because OpenVINO reuses its output memory in the next call.
        scores = torch.from_numpy(outputs[SCORES_OUTPUT].copy())
        probabilities = torch.from_numpy(outputs[PROBABILITIES_OUTPUT].copy())
        return scores, probabilities

    return run_compiled
