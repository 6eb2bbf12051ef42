"""Lesion studies: measure the error of trained networks after units are deleted or reordered.

After Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow
networks", sections 4 and 5.  Networks run in evaluation mode, so BN uses the running statistics of
the intact network.  `residua lesion` runs them in fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residua.analysis.examined_images import SummaryListener, read_lesion_images
from residua.analysis.network_lesions import LesionSampling, measure_lesions
from residua.config.dataset import Dataset
from residua.config.lesion_results import LesionStudyResult
from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.sources.resolve import resolve_dataset
from residua.data.summary import ignore_summary
from residua.data.unseen_images import EvaluatedSplit
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.model_folder import (
    check_compatibility,
    find_model_folder,
    load_residual_network,
    read_model_config,
)
from residua.training.machine import Machine
from residua.training.progress import NamedCountListener


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInStudy:
    """A trained network in a lesion study; `source` distinguishes it from others of its name."""

    net: ResidualNetwork
    config: ModelConfig
    source: str


def run_lesion_study(
    folders: Sequence[Path],
    data: str,
    split: EvaluatedSplit | None,
    machine: Machine,
    sampling: LesionSampling,
    *,
    image_count: int | None = None,
    data_dir: Path | None = None,
    on_progress: NamedCountListener,
    on_data: SummaryListener = ignore_summary,
) -> LesionStudyResult:
    """Run a lesion study of the networks in run or model folders, all on the same images.

    `folders` may also be names of published weights, or hf:OWNER/NAME.  `data` is a data set's name
    or the place of photographs, of which `read_lesion_images` chooses `image_count`, or all if it
    is None.  The report compares the other networks with the first one.

    Raises UsageError if the first network has no shortcuts, if the classes or the input shape of a
    network do not match `data`, if a folder holds VLAD, which has no units, or if `image_count` is
    below 1.  Raises RecordError if a folder cannot be read, and DataError if the images cannot be
    read.
    """
    model_folders = [find_model_folder(folder) for folder in folders]
    configs = [read_model_config(folder) for folder in model_folders]
    dataset = resolve_dataset(
        data,
        configs[0].network.input,
        configs[0].classes,
        skip_unknown=True,
        data_dir=data_dir,
    )
    for config, folder in zip(configs, model_folders, strict=True):
        check_compatibility(config, dataset, str(folder))
    nets = [load_residual_network(folder) for folder in model_folders]
    if nets[0].plan.network.unit.shortcut == "none":
        raise UsageError(
            f"{nets[0].plan.network.name} has no shortcuts: give a residual network first, "
            f"and this one with --beside {folders[0]}"
        )
    networks = [
        NetworkInStudy(net, config, str(folder))
        for net, config, folder in zip(nets, configs, folders, strict=True)
    ]
    return measure_lesion_study(
        networks,
        dataset,
        split,
        machine,
        sampling,
        image_count=image_count,
        data_dir=data_dir,
        on_progress=on_progress,
        on_data=on_data,
    )


def measure_lesion_study(
    networks: Sequence[NetworkInStudy],
    data: Dataset,
    split: EvaluatedSplit | None,
    machine: Machine,
    sampling: LesionSampling,
    *,
    image_count: int | None = None,
    data_dir: Path | None = None,
    on_progress: NamedCountListener,
    on_data: SummaryListener = ignore_summary,
) -> LesionStudyResult:
    """Run a lesion study of networks that are in memory, and whose classes are those of `data`.

    The networks are moved to the machine's device, and stay there.  Raises UsageError if
    `image_count` is below 1.
    """
    if image_count is not None and image_count < 1:
        raise UsageError(f"images must be at least 1, got {image_count}")
    names = [network.net.plan.network.name for network in networks]
    images, chosen_split = read_lesion_images(
        data, split, networks[0].config, image_count, data_dir, on_data
    )
    sample = images.to(machine.device)
    net_labels = make_net_labels(names, [network.source for network in networks])
    net_results = [
        measure_lesions(
            machine.prepare_model_in_place(network.net),
            label,
            normalise_pixels(sample.pixels, network.config.mean, network.config.std),
            sample.labels,
            sampling,
            on_progress,
        )
        for network, label in zip(networks, net_labels, strict=True)
    ]
    return LesionStudyResult(
        dataset=data.name,
        split=chosen_split,
        classes=len(data.classes),
        images=len(sample),
        draws=sampling.draws,
        seed=sampling.seed,
        nets=tuple(net_results),
    )


def make_net_labels(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Label each network by its name, followed by its source if another has the same name."""
    return [
        f"{name} ({source})" if names.count(name) > 1 else name
        for name, source in zip(names, sources, strict=True)
    ]
