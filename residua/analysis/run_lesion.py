"""Lesion studies: measure the error of trained networks after units are deleted or reordered.

After Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow
networks", sections 4 and 5.  Networks run in evaluation mode, so BN uses the running statistics of
the intact network.  `residua lesion` runs them in fp32.
"""

from collections.abc import Sequence
from pathlib import Path

from residua.analysis.network_lesions import LesionSampling, measure_lesions
from residua.config.dataset import Dataset
from residua.config.lesion_results import LesionStudyResult
from residua.data.augment import normalise_pixels
from residua.data.read import read_split
from residua.data.sources.listing import Split
from residua.errors import UsageError
from residua.net.model_folder import (
    find_model_folder,
    load_residual_network,
    read_compatible_config,
)
from residua.training.machine import Machine
from residua.training.progress import NamedCountListener


def run_lesion_study(
    folders: Sequence[Path],
    data: Dataset,
    split: Split,
    machine: Machine,
    sampling: LesionSampling,
    *,
    image_count: int | None = None,
    data_dir: Path | None = None,
    on_progress: NamedCountListener,
) -> LesionStudyResult:
    """Run a lesion study of the networks in run or model folders, all on the same images.

    The images are the first `image_count` of the split, or all of them if `image_count` is None.
    The report compares the other networks with the first one.

    Raises UsageError if the first network has no shortcuts, if the classes or the input shape of a
    network do not match `data`, if a folder holds VLAD, which has no units, or if `image_count` is
    below 1.  Raises RecordError if a folder cannot be read, DataError if the images cannot.
    """
    if image_count is not None and image_count < 1:
        raise UsageError(f"images must be at least 1, got {image_count}")
    model_folders = [find_model_folder(folder) for folder in folders]
    configs = [read_compatible_config(data, folder) for folder in model_folders]
    nets = [load_residual_network(folder) for folder in model_folders]
    if nets[0].plan.network.unit.shortcut == "none":
        raise UsageError(
            f"{nets[0].plan.network.name} has no shortcuts: give a residual network first, "
            f"and this one with --beside {folders[0]}"
        )
    sample = read_split(data, split, data_dir)[slice(0, image_count)].to(machine.device)
    net_labels = make_net_labels([net.plan.network.name for net in nets], folders)
    net_results = [
        measure_lesions(
            machine.prepare_model(net),
            label,
            normalise_pixels(sample.pixels, config.mean, config.std),
            sample.labels,
            sampling,
            on_progress,
        )
        for net, label, config in zip(nets, net_labels, configs, strict=True)
    ]
    return LesionStudyResult(
        dataset=data.name,
        split=split,
        classes=len(data.classes),
        images=len(sample),
        draws=sampling.draws,
        seed=sampling.seed,
        nets=tuple(net_results),
    )


def make_net_labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Label each network by its name, followed by its folder if another has the same name."""
    return [
        f"{name} ({folder})" if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]
