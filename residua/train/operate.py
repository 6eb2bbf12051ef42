"""Change the network of a folder, and save what comes out as a new model folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.folder import network_from, read_config, save_pretrained
from residua.spec.text import Json
from residua.train.evaluate import model_folder


def operate(folder: Path, out: Path, change: Callable[[ResidualNetwork], ResidualNetwork]) -> dict[str, Json]:
    """`change` the network of a run or a model folder; the new folder keeps its classes and preprocessing.

    Says whether the outputs of 16 random images are the same to the bit.  Raises UsageError where `out` is taken.
    """
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    source = model_folder(folder)
    config, net = read_config(source), network_from(source)
    changed = change(net).eval()
    images = torch.randn(16, *net.plan.network.input, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        identical = torch.equal(net(images), changed(images))
    config = replace(config, network=changed.plan.network)
    if not identical:  # then it is not what was trained
        config = replace(config, dataset="", fingerprint="", recipe="", test_error=None, test_images=0, temperature=1.0)
    save_pretrained(changed, config, out)
    return {
        "before": net.plan.network.name, "model": changed.plan.network.name, "depth": changed.plan.depth,
        "parameters": changed.plan.parameters, "identical": identical, "folder": str(out),
    }  # fmt: skip
