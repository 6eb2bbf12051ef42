"""Measure the activations and the gradients of a network, unit by unit."""

from copy import deepcopy
from math import prod
from pathlib import Path

from torch import nn

from residua.analysis.run_signals import (
    NetworkWithData,
    make_network_signals_record,
    names_untrained_network,
    pair_built_network_with_data,
    point_to_published_weights,
    resolve_network_with_data,
)
from residua.api.given_networks import (
    GIVE_DATA,
    GivenNetwork,
    get_recorded_training_dataset,
    read_given_network,
)
from residua.api.own_errors import name_keywords_in_errors
from residua.config.checks import check_seed_range
from residua.config.dataset import Dataset
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.console.output import print_note
from residua.console.progress import ProgressBar
from residua.data.in_memory import make_one_split_dataset, measure_channels
from residua.data.sources.resolve import resolve_dataset
from residua.data.user_data import ImagesAndLabels, read_part
from residua.errors import UsageError
from residua.net.build import ResidualNetwork, build
from residua.net.model_folder import check_compatibility
from residua.net.own_module import make_module_classifier
from residua.net.vlad import VladNetwork
from residua.report.signals import choose_signals_folder, write_signals_report_with_data
from residua.report.signals_record import (
    SignalsRecord,
    parse_signals_record,
    write_signals_record,
)
from residua.training.machine import DeviceChoice, set_up_machine


@name_keywords_in_errors
def signals(
    model: GivenNetwork,
    data: str | ImagesAndLabels | None = None,
    *,
    images: int = 16,
    seed: int = 0,
    out: str | Path | None = None,
    device: DeviceChoice = "auto",
    data_dir: str | Path | None = None,
    quiet: bool = False,
) -> SignalsRecord:
    """Measure the activations and the gradients of a network unit by unit, on one batch.

    `model` may also be the name of a network, which is initialised from `seed`; published weights
    have their tag, such as `resnet50.a1_in1k`.  A module counts as trained; one that residua has
    not built has a unit at each residual addition.  The batch is the first `images` training images
    of the data set that `data` names, or the first of (images, labels), or as many spread over the
    training photographs at the place `data`.  By default `data` is what the network was trained on;
    for a module, `data` is required.  If `out` is given, the report page and `signals.json` are
    written to this folder.

    Raises UsageError if network and data do not fit, or for fewer than 2 or too many images.
    """
    folder = None if out is None else choose_signals_folder(Path(out), "")
    machine = set_up_machine("fp32", device_choice=device)
    place = None if data_dir is None else Path(data_dir)
    if not quiet and isinstance(model, str) and (note := point_to_published_weights(model)):
        print_note(note)
    examined = resolve_examined_network(model, data, seed, place)
    with ProgressBar("unit", hidden=quiet) as bar:
        content = make_network_signals_record(
            examined,
            machine,
            image_count=images,
            seed=seed,
            data_dir=place,
            on_progress=lambda done, total: bar.update(examined.name, done, total),
        )
    if folder is not None:
        write_signals_record(content, folder)
        write_signals_report_with_data(folder)
    return parse_signals_record(content)


def resolve_examined_network(
    model: GivenNetwork, data: str | ImagesAndLabels | None, seed: int, data_dir: Path | None
) -> NetworkWithData:
    """Find the network to examine, and its data, as `signals` describes.

    Networks that are given as objects are copied.  Raises UsageError if network and data do not
    fit, or if a module is given without data.
    """
    if isinstance(model, str) and names_untrained_network(model):
        if data is None or isinstance(data, str):
            return resolve_network_with_data(model, data or "", seed, data_dir)
        dataset = resolve_signals_data(data, None, data_dir)
        check_seed_range(seed)
        new_net = build(network(model, input=dataset.input, classes=len(dataset.classes)), seed)
        return pair_built_network_with_data(
            new_net, dataset, dataset.mean, dataset.std, is_trained=False
        )
    given = read_given_network(model)
    dataset = resolve_signals_data(data, given.config, data_dir)
    return pair_given_network_with_data(deepcopy(given.net), given.config, dataset)


def resolve_signals_data(
    data: str | ImagesAndLabels | None, config: ModelConfig | None, data_dir: Path | None
) -> Dataset:
    """Return the data set to examine a network on, by default the one that its config names.

    All images in memory belong to the examined split.
    """
    if isinstance(data, str):
        shape = config.network.input if config else ()
        classes = config.classes if config else ()
        return resolve_dataset(data, shape, classes, skip_unknown=True, data_dir=data_dir)
    if data is not None:
        images, classes = read_part(data, config.classes if config else None)
        mean, std = (config.mean, config.std) if config else measure_channels(images.pixels)
        return make_one_split_dataset(images, "train", classes, mean, std)
    if config is None:
        raise UsageError(f"a module does not record the data that it was trained on: {GIVE_DATA}")
    return get_recorded_training_dataset(config)


def pair_given_network_with_data(
    net: nn.Module, config: ModelConfig | None, data: Dataset
) -> NetworkWithData:
    """Pair a trained network with its data, and with the normalisation of its config.

    Without a config, the normalisation is that of the data.  Raises UsageError if network and data
    do not fit, or for VLAD, which has no units.
    """
    mean, std = (config.mean, config.std) if config else (data.mean, data.std)
    if config is not None:
        check_compatibility(config, data, config.network.name)
    if isinstance(net, VladNetwork):
        raise UsageError("vlad has no units: give a network, e.g. cifar-resnet110")
    if isinstance(net, ResidualNetwork):
        check_network_fits(net, data)
        return pair_built_network_with_data(net, data, mean, std, is_trained=True, config=config)
    described = make_module_classifier(net, data.input, len(data.classes))
    return NetworkWithData(
        net, described.name, described.depth, data, mean, std, is_trained=True, config=config
    )


def check_network_fits(net: ResidualNetwork, data: Dataset) -> None:
    """Raise UsageError if a network's input shape or number of classes does not fit the data."""
    described, classes = net.plan.network, len(data.classes)
    fits_images = described.input in (data.input, (prod(data.input),))
    if not fits_images or net.num_classes != classes:
        raise UsageError(
            f"{described.name} takes images of shape {described.input} and has {net.num_classes} "
            f"classes, but {data.name} has images of shape {data.input} and {classes} classes: "
            "give data that fits the network"
        )
