"""A graph -> torch.export, ONNX and OpenVINO, with any number of images, by these libraries' own translators."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.onnx import ONNXProgram

from residua.deploy.graph import PROBABILITIES, SCORES, Graph

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

OPSET = 20  # of ONNX


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the translators say about their own future to themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
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


def example(graph: Graph) -> Tensor:
    """Two images, for with one a translator would take the number for a constant."""
    return torch.zeros(2, *graph.shape, dtype=torch.uint8 if graph.bakes else torch.float32)


def exported(graph: Graph) -> ExportedProgram:
    """As `torch.export` has it, without the places in our source that its nodes remember."""
    with quiet(), torch.no_grad():
        program = torch.export.export(graph.eval(), (example(graph),), dynamic_shapes=({0: Dim.DYNAMIC},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def onnx_program(graph: Graph) -> ONNXProgram:
    """As ONNX, of opset OPSET, without the translator's notes."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(), (example(graph),), dynamo=True, opset_version=OPSET, dynamic_shapes=({0: "batch"},),
            input_names=[graph.takes], output_names=[SCORES, PROBABILITIES], verbose=False,
        )  # fmt: skip
    assert program is not None  # with dynamo it never is
    model = program.model
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return program


def openvino_model(graph: Graph) -> "openvino.Model":
    """As OpenVINO has it, by way of `torch.export`."""
    with quiet():
        import openvino

        model: openvino.Model = openvino.convert_model(exported(graph))
    model.reshape([-1, *graph.shape])
    model.inputs[0].get_tensor().set_names({graph.takes})
    for output, name in zip(model.outputs, (SCORES, PROBABILITIES), strict=True):
        output.get_tensor().set_names({name})
    return model
