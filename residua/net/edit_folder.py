"""Edit the network of a run or a model folder, and save the result as a new model folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from residua.config.serialize import Json
from residua.files import claim_new_output
from residua.net.build import ResidualNetwork
from residua.net.model_folder import (
    find_model_folder,
    load_residual_network,
    read_model_config,
    save_pretrained,
)


def edit_model_folder(
    folder: Path, out: Path, edit: Callable[[ResidualNetwork], ResidualNetwork]
) -> dict[str, Json]:
    """Apply `edit` to the network of a run or a model folder, and write the result to `out`.

    The outputs before and after the edit are compared on 16 random images.  The result dict says
    under `identical` whether they are bit-identical.  If they are not, the new config drops the
    data set, recipe, test error and temperature.  Raises UsageError if `out` exists.
    """
    with claim_new_output(out):
        return edit_new_model_folder(folder, out, edit)


def edit_new_model_folder(
    folder: Path, out: Path, edit: Callable[[ResidualNetwork], ResidualNetwork]
) -> dict[str, Json]:
    source = find_model_folder(folder)
    config, net = read_model_config(source), load_residual_network(source)
    edited = edit(net).eval()
    images = torch.randn(16, *net.plan.network.input, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        is_identical = torch.equal(net(images), edited(images))
    config = replace(config, network=edited.plan.network)
    if not is_identical:  # the training data and results no longer describe the edited network
        config = replace(
            config,
            dataset="",
            fingerprint="",
            recipe="",
            test_error=None,
            test_images=0,
            temperature=1.0,
        )
    save_pretrained(edited, config, out)
    return {
        "before": net.plan.network.name,
        "model": edited.plan.network.name,
        "depth": edited.plan.depth,
        "parameters": edited.plan.parameters,
        "identical": is_identical,
        "folder": str(out),
    }
