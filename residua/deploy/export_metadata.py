"""Metadata in an exported file: the model, its classes and how to prepare images for it."""

import json

from residua.config.model import ModelConfig
from residua.deploy.inference_module import ExportableClassifier
from residua.version import __version__

METADATA_SECTION = "residua"  # name of the metadata section, in formats that have sections


def make_export_metadata(config: ModelConfig, module: ExportableClassifier) -> dict[str, str]:
    """Make the metadata of an exported file as strings; lists and numbers are encoded as JSON."""
    return {
        "model": config.network.name,
        "classes": json.dumps(config.classes),
        "input": json.dumps(config.input),
        "takes": describe_input(module),
        "mean": json.dumps(config.mean),
        "std": json.dumps(config.std),
        "resize": json.dumps(config.resize),
        "interpolation": config.interpolation,
        "white_level": json.dumps(config.white_level),
        "scaled_decoding": json.dumps(config.scaled_decoding),
        "temperature": json.dumps(config.temperature),
        "preprocessing": describe_preprocessing(config, module),
        "residua": __version__,
    }


def describe_input(module: ExportableClassifier) -> str:
    """Describe the input's name, shape and type, e.g. `pixels: (batch, 3, 224, 224) uint8`."""
    shape = ", ".join(map(str, module.input_shape))
    element_type = "uint8" if module.bakes_preprocessing else "fp32, normalised"
    return f"{module.input_name}: (batch, {shape}) {element_type}"


def describe_preprocessing(config: ModelConfig, module: ExportableClassifier) -> str:
    """Describe in words how an image file becomes the input of the module."""
    height, width = config.input[1:]
    resampling = f"{config.interpolation}, antialiased"
    resizing = (
        f"shorter side resized to {config.resize} ({resampling}), center crop {height} x {width}"
        if config.resize
        else f"resized to {height} x {width} ({resampling})"
    )
    normalisation = (
        "" if module.bakes_preprocessing else "; then (pixels / 255 - mean) / std per channel"
    )
    white = f" (grey of more than 8 bits: {config.white_level} is white)" * bool(config.white_level)
    decoding = (
        ", JPEG files decoded at 1/2, 1/4 or 1/8 where that suffices" * config.scaled_decoding
    )
    return f"RGB{white}{decoding}, {resizing}{normalisation}"
