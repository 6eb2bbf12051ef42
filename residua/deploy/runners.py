"""Translated graphs in their own libraries, on the CPU and on as many threads as PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from residua.deploy.graph import PROBABILITIES, SCORES
from residua.deploy.translate import quiet

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

Runs: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What a graph takes -> scores and probabilities."""


def onnx_runner(content: bytes) -> Runs:
    """The content of an ONNX file in ONNX Runtime."""
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, probabilities = session.run([SCORES, PROBABILITIES], {name: images.contiguous().numpy()})
        return torch.from_numpy(scores), torch.from_numpy(probabilities)

    return run


def openvino_runner(model: "openvino.Model | Path", precision: Literal["bf16", "f32"] = "f32") -> Runs:
    """A model of OpenVINO's, or the path of one, compiled for this CPU."""
    with quiet():
        import openvino
    settings = {
        "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }  # fmt: skip
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        found = compiled(images.contiguous().numpy())
        return torch.from_numpy(found[SCORES].copy()), torch.from_numpy(found[PROBABILITIES].copy())

    return run
