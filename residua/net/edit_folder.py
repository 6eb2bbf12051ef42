"""Edit the network of a run or a model folder, and save the result as a new model folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.files import claim_new_output
from residua.net.build import ResidualNetwork
from residua.net.model_folder import (
    find_model_folder,
    load_residual_network,
    read_model_config,
    save_pretrained,
)


@dataclass(frozen=True, slots=True, eq=False)
class EditedNetwork:
    """A network after an edit, its config, and whether its outputs are still bit-identical."""

    net: ResidualNetwork
    config: ModelConfig
    is_identical: bool


def edit_model_folder(
    folder: Path, out: Path, edit: Callable[[ResidualNetwork], ResidualNetwork]
) -> dict[str, Json]:
    """Apply `edit` to the network of a run or a model folder, and write the result to `out`.

    The result dict says under `identical` whether the outputs are bit-identical (see
    `edit_network`).  Raises UsageError if `out` exists.
    """
    with claim_new_output(out):
        return edit_new_model_folder(folder, out, edit)


def edit_new_model_folder(
    folder: Path, out: Path, edit: Callable[[ResidualNetwork], ResidualNetwork]
) -> dict[str, Json]:
    source = find_model_folder(folder)
    config, net = read_model_config(source), load_residual_network(source)
    edited = edit_network(net, config, edit)
    save_pretrained(edited.net, edited.config, out)
    plan = edited.net.plan
    return {
        "before": net.plan.network.name,
        "model": plan.network.name,
        "depth": plan.depth,
        "parameters": plan.parameters,
        "identical": edited.is_identical,
        "folder": str(out),
    }


def edit_network(
    net: ResidualNetwork,
    config: ModelConfig,
    edit: Callable[[ResidualNetwork], ResidualNetwork],
) -> EditedNetwork:
    """Apply `edit` to a network in evaluation mode, and change its config to fit.

    The outputs before and after the edit are compared on 16 random images.  If they are not
    bit-identical, the new config drops the data set, recipe, test error and temperature.
    """
    edited = edit(net).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, *net.plan.network.input, generator=generator)
    images = images.to(next(net.parameters()).device)
    with torch.inference_mode():
        is_identical = torch.equal(net(images), edited(images))
    config = replace(config, network=edited.plan.network, published_as="", published_sum="")
    if not is_identical:  # the training data and results no longer describe the edited network
        config = replace(
            config,
            dataset="",
            fingerprint="",
            recipe="",
            test_error=None,
            test_images=0,
            test_views="none",
            temperature=1.0,
        )
    return EditedNetwork(edited, config, is_identical)
