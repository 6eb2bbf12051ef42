"""A module -> torch.export, ONNX and OpenVINO, with any number of images, by these libraries' own translators."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residua.deploy.graph import IMAGES, PIXELS, PROBABILITIES, SCORES, Graph

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

OPSET = 20  # of ONNX


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the translators say about their own future to themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def exported(graph: Graph, example: Tensor) -> torch.export.ExportedProgram:
    """The graph as `torch.export` has it, with the first dimension free; `example` holds two images."""
    with quiet(), torch.no_grad():
        return torch.export.export(graph.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def onnx_program(graph: Graph, example: Tensor) -> torch.onnx.ONNXProgram:
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(), (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=[PIXELS if graph.bakes else IMAGES], output_names=[SCORES, PROBABILITIES], verbose=False,
        )  # fmt: skip
    assert program is not None  # with dynamo it never is
    return program


def openvino_model(graph: Graph, example: Tensor) -> "openvino.Model":
    with quiet():
        import openvino

        model: openvino.Model = openvino.convert_model(exported(graph, example))
        model.reshape([-1, *example.shape[1:]])
    model.inputs[0].get_tensor().set_names({PIXELS if graph.bakes else IMAGES})
    for output, name in zip(model.outputs, (SCORES, PROBABILITIES), strict=True):
        output.get_tensor().set_names({name})
    return model
