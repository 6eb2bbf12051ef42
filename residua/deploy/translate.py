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

from residua.deploy.inference_module import PROBABILITIES_OUTPUT, SCORES_OUTPUT, InferenceModule

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

ONNX_OPSET = 20  # of ONNX


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Keep what the translators say about their own future to themselves."""
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


def make_example_input(module: InferenceModule) -> Tensor:
    """Two images, for with one a translator would take the number for a constant."""
    return torch.zeros(
        2, *module.input_shape, dtype=torch.uint8 if module.bakes_preprocessing else torch.float32
    )


def export_torch_program(module: InferenceModule) -> ExportedProgram:
    """As `torch.export` has it, without the places in our source that its nodes remember."""
    with silence_exporters(), torch.no_grad():
        program = torch.export.export(
            module.eval(), (make_example_input(module),), dynamic_shapes=({0: Dim.DYNAMIC},)
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def export_onnx_program(module: InferenceModule) -> ONNXProgram:
    """As ONNX, of opset OPSET, without the translator's notes."""
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


def convert_to_openvino(module: InferenceModule) -> "openvino.Model":
    """As OpenVINO has it, by way of `torch.export`."""
    with silence_exporters():
        import openvino

        model: openvino.Model = openvino.convert_model(export_torch_program(module))
    model.reshape([-1, *module.input_shape])
    model.inputs[0].get_tensor().set_names({module.input_name})
    for output, name in zip(model.outputs, (SCORES_OUTPUT, PROBABILITIES_OUTPUT), strict=True):
        output.get_tensor().set_names({name})
    return model
