"""Modules of the user's own: their config, and their weights in a model folder."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.config.module_classifier import ModuleClassifier, qualified_name
from residua.errors import UsageError
from residua.files import read_undisturbed
from residua.net.model_folder import load_checked_tensors, read_verified_config_and_tensors
from residua.net.tensor_checksum import checksum_tensors
from residua.net.training_modes import restore_training_modes

PROBED_IMAGES = 2  # more than one, as BN in training mode needs


def make_module_classifier(
    module: nn.Module, input: tuple[int, int, int], classes: int
) -> ModuleClassifier:
    """Describe a module that is to classify images (n, *input).

    The module is tried on two noise images.  Raises UsageError if it fails on them, if it has no
    trainable parameters, or if its output is not (n, classes).
    """
    name = qualified_name(module)
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if not parameters:
        raise UsageError(f"{name} has no trainable parameters: give a module that can be trained")
    shape = compute_output_shape(module, input, name)
    if shape != (PROBED_IMAGES, classes):
        raise UsageError(
            f"{name} maps {PROBED_IMAGES} images of shape {input} to an output of shape {shape}, "
            f"but the data has {classes} classes: its output must be (n, {classes})"
        )
    weight_layers = [
        layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    return ModuleClassifier(
        name=name,
        input=input,
        classes=classes,
        parameters=parameters,
        depth=len(weight_layers),
        state=checksum_tensors(module.state_dict())[:16],
    )


def compute_output_shape(
    module: nn.Module, input: tuple[int, int, int], name: str
) -> tuple[int, ...]:
    """Compute the shape of the output for two noise images; the module is left as it was."""
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((PROBED_IMAGES, *input), generator=generator)
    try:
        with restore_training_modes(module), torch.no_grad():
            output = module.eval()(images.to(parameter.device, parameter.dtype))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{name} cannot process images of shape {input}: {reason}") from error
    if not isinstance(output, Tensor):
        raise UsageError(
            f"{name} returns {type(output).__name__}: its output must be a tensor of class scores"
        )
    return tuple(output.shape)


def load_own_module(folder: Path, module: nn.Module) -> ModelConfig:
    """Load the weights of a model folder into a module of the user's own, and return the config.

    The module is then in evaluation mode.  Raises UsageError if the folder holds a network of
    residua or weights of another class, and RecordError as `load_model_folder` does.
    """
    config, tensors = read_undisturbed(folder, partial(read_verified_config_and_tensors, folder))
    name = qualified_name(module)
    if not isinstance(config.network, ModuleClassifier):
        raise UsageError(
            f"{folder} holds {config.network.name}, which residua builds itself: "
            "call it without module="
        )
    if config.network.name != name:
        raise UsageError(
            f"{folder} holds the weights of {config.network.name}, not of {name}: give the module "
            "that was trained"
        )
    load_checked_tensors(module, tensors, config, folder)
    return config
