"""Converts an inference module to torch.export, ONNX or OpenVINO, with a dynamic batch size."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.onnx import ONNXProgram

from residua.deploy.inference_module import (
    PROBABILITIES_OUTPUT,
    SCORES_OUTPUT,
    ExportableClassifier,
)

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

ONNX_OPSET = 20


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Suppress the deprecation warnings and log messages of the export libraries."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")
    ]
    previous_levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, previous_levels, strict=True):
            logger.setLevel(level)


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would send each conversion to its makers.

    A program that has imported OpenVINO before has decided this for itself.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not importable
    with silence_exporters():
        return import_module("openvino")


def make_example_input(module: ExportableClassifier) -> Tensor:
    """Make a batch of two all-zero images, with which exporters trace the module.

    With only one image, an exporter would treat the batch size 1 as a constant.
    """
    return torch.zeros(
        2, *module.input_shape, dtype=torch.uint8 if module.bakes_preprocessing else torch.float32
    )


def export_torch_program(module: ExportableClassifier) -> ExportedProgram:
    """Export a module with `torch.export`, without the stack traces of its nodes.

    The stack traces would put paths of this machine into the file.
    """
    with silence_exporters(), torch.no_grad():
        program = torch.export.export(
            module.eval(), (make_example_input(module),), dynamic_shapes=({0: Dim.DYNAMIC},)
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def export_onnx_program(module: ExportableClassifier) -> ONNXProgram:
    """Export a module to ONNX, opset `ONNX_OPSET`, without the metadata of its nodes and values.

    The metadata would put stack traces and paths of this machine into the file.
    """
    with silence_exporters(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (make_example_input(module),),
            dynamo=True,
            opset_version=ONNX_OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=[module.input_name],
            output_names=[SCORES_OUTPUT, PROBABILITIES_OUTPUT],
            verbose=False,
        )
    assert program is not None  # None only if dynamo=False
    model = program.model
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    return program


def convert_to_openvino(module: ExportableClassifier) -> "openvino.Model":
    """Convert a module to an OpenVINO model, by way of `torch.export`."""
    openvino = import_openvino()
    with silence_exporters():
        model = openvino.convert_model(export_torch_program(module))
    model.reshape([-1, *module.input_shape])
    model.inputs[0].get_tensor().set_names({module.input_name})
    for output, name in zip(model.outputs, (SCORES_OUTPUT, PROBABILITIES_OUTPUT), strict=True):
        output.get_tensor().set_names({name})
    return model
