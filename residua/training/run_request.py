"""Turn a request to train into a run: choose what the request leaves open."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.papers import network
from residua.config.recipe import RECIPE_NETWORKS, Recipe, usual_recipe
from residua.config.run import Run
from residua.config.serialize import to_json
from residua.config.vlad_config import ClassifierConfig, is_vlad_name, make_vlad_classifier
from residua.data.in_memory import InMemoryDataset
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing
from residua.errors import UsageError
from residua.net.own_module import make_module_classifier
from residua.training.added_classes import add_classes_to_model
from residua.training.auto_config import AutoConfig, choose_config, choose_config_for_photos
from residua.training.chosen_start import (
    NO_WEIGHTS,
    ChosenStart,
    choose_min_tuning_steps,
    choose_start,
    describe_unused_weights,
)
from residua.training.initial_weights import (
    WeightSource,
    adapt_network_to_data,
    read_image_size,
    resolve_weight_source,
)
from residua.training.machine import Machine
from residua.training.prepared_network import require_fields_with_effect

DEFAULT_MODEL = "cifar-resnet20"
MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 8, 1024  # allowed range of the image size, in pixels
SMALL_IMAGE_SIDE = 40  # in pixels, up to which images in memory get a recipe for small images
SMALL_RECIPE_IMAGES = 20_000  # from which the recipe `fast` is used rather than `small`
VLAD_IMAGE_SIDE = 64  # default size of photographs for VLAD, in pixels; our choice


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The options of a run; those that are None are chosen to suit the data and the machine.

    model          name of a network or of VLAD, a network, or a module of the user's own
    weights        the weights to start from: a folder, a file, the name of published weights or
                   hf:OWNER/NAME; "none": random ones; None: chosen for photographs whose network is
                   chosen, too, and else random ones
    size           side of photographs in pixels
    add_class      whether the classes of the weights are kept, and those of the data added
    change_recipe  function that turns the recipe chosen for the data into the one to train with
    given          names of the options that the user gave
    resumed        folder of the run to go on with, if it exists: it has chosen already
    """

    model: str | Network | nn.Module | None = None
    weights: str | Path | None = None
    size: int | None = None
    add_class: bool = False
    seed: int = 0
    change_recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    precision: str = "auto"
    given: frozenset[str] = frozenset()
    resumed: Path | None = None


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """A run with its data set, the weights it starts from, and the reasons of automatic choices."""

    run: Run
    dataset: Dataset
    weights_path: Path | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)  # by the option that overrides each
    missing: str = ""  # published weights that it would start from, if they could be had


def resolve_run(request: RunRequest, dataset: Dataset, machine: Machine) -> ResolvedRun:
    """Make the run on `dataset` that the request describes.

    For photographs and for images in memory, what is left open is chosen to suit the images and the
    machine.  Raises UsageError for values that do not fit the data, the model or each other.
    """
    if request.add_class:
        weights = None if request.weights == NO_WEIGHTS else request.weights
        dataset = add_classes_to_model(weights, dataset)
    if isinstance(request.model, str) and is_vlad_name(request.model):
        return resolve_vlad_run(request, request.model, dataset)
    chosen = resolve_chosen_start(request, dataset, machine)
    request = replace(request, weights=chosen.weights)
    if isinstance(dataset, PhotoDataset):
        return resolve_photo_run(request, dataset, machine, chosen)
    if request.size is not None:
        _, height, width = dataset.input
        raise UsageError(
            f"--size applies only to photographs: leave it out, "
            f"because images of {dataset.name} are always {height} x {width}"
        )
    if isinstance(dataset, InMemoryDataset):
        auto_config = choose_config_for_arrays(dataset, machine, request)
        return make_run(request, dataset, dataset.name, auto_config, chosen)
    recipe = usual_recipe(dataset.name)
    auto_config = AutoConfig(DEFAULT_MODEL, dataset.input[1], recipe, {})
    return make_run(request, dataset, dataset.name, auto_config, chosen)


def resolve_chosen_start(request: RunRequest, dataset: Dataset, machine: Machine) -> ChosenStart:
    """Choose the weights to start from, if the request leaves both them and the network open.

    Weights that it names are fetched, once on each machine.
    """
    weights = None if request.weights == NO_WEIGHTS else request.weights
    if request.weights is None and isinstance(dataset, PhotoDataset):
        if request.model is None:
            return choose_start(dataset.listing, machine, request.resumed)
        return ChosenStart(None, describe_unused_weights(request.model))
    if weights is None:
        return ChosenStart(None, "")
    source = machine.group.run_local_rank0_first(partial(resolve_weight_source, weights))
    return ChosenStart(weights, "", source)


def choose_config_for_arrays(
    dataset: InMemoryDataset, machine: Machine, request: RunRequest
) -> AutoConfig:
    """Choose the network and the recipe for images in memory, whose size is given."""
    labels, side = dataset.images["train"].labels, min(dataset.input[1:])
    small_recipe = "small" if len(labels) < SMALL_RECIPE_IMAGES else "fast"
    auto_config = choose_config(
        Counter(labels.tolist()),
        side,
        machine,
        finetune=request.weights is not None,
        image_size=side,
        scratch_recipe=small_recipe if side <= SMALL_IMAGE_SIDE else "photos",
        min_tuning_steps=choose_min_tuning_steps(request.resumed),
    )
    reasons = {name: text for name, text in auto_config.reasons.items() if name != "size"}
    return replace(auto_config, reasons=reasons)


def resolve_photo_run(
    request: RunRequest, dataset: PhotoDataset, machine: Machine, chosen: ChosenStart
) -> ResolvedRun:
    """Make the run on photographs; choose the image size, the network and the recipe if not given.

    Raises UsageError if the image size is out of range.
    """
    side = request.size or 0
    if request.size is not None and not MIN_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE:
        raise UsageError(
            f"--size {request.size} is invalid: give {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels"
        )
    is_fine_tuning = request.weights is not None
    if chosen.source is not None and not side:
        side = read_image_size(chosen.source)
    auto_config = choose_config_for_photos(
        dataset.listing,
        machine,
        finetune=is_fine_tuning,
        image_size=side,
        shorter_side=chosen.shorter_side,
        min_tuning_steps=choose_min_tuning_steps(request.resumed),
    )
    image_shape = (3, auto_config.image_size, auto_config.image_size)
    sized_dataset = dataset_from_listing(dataset.listing, image_shape)
    return make_run(request, sized_dataset, dataset.folder, auto_config, chosen)


def make_run(
    request: RunRequest,
    dataset: Dataset,
    data_name: str,
    auto_config: AutoConfig,
    chosen: ChosenStart,
) -> ResolvedRun:
    """Make the run from the request and from the choices for what it leaves open."""
    chosen_recipe = request.change_recipe(auto_config.recipe)
    default_model = RECIPE_NETWORKS.get(chosen_recipe.name, auto_config.model_name)
    start = resolve_start(request, dataset, default_model, chosen.source)
    may_be_trained = bool(request.weights) or isinstance(request.model, nn.Module)
    require_fields_with_effect(
        chosen_recipe, is_trained=may_be_trained, why_not=chosen.which_is_missing
    )
    settled, reasons = set(request.given), {"from": chosen.reason, **auto_config.reasons}
    if "recipe" in reasons and (changes := list_recipe_changes(auto_config.recipe, chosen_recipe)):
        reasons["recipe"] += f"; changed by your options: {', '.join(changes)}"
    if request.weights and not chosen.reason:
        settled.add("model")
    return ResolvedRun(
        Run(
            start.network,
            data_name,
            chosen_recipe,
            request.seed,
            start.fingerprint,
            add_class=request.add_class,
        ),
        dataset,
        start.weights_path,
        {option: why for option, why in reasons.items() if why and option not in settled},
        chosen.missing,
    )


def list_recipe_changes(chosen: Recipe, changed: Recipe) -> list[str]:
    """List the fields in which `changed` differs from `chosen`: `["epochs 3", "schedule.lr 0.1"]`.

    Of an optimiser, for example, of another kind only the kind is named.  Steps and epochs that are
    0 do not set the duration, and are left out.
    """
    before, after = to_json(chosen), to_json(changed)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    changes = []
    for name, value in after.items():
        old = before.get(name)
        if value == old or (name in ("steps", "epochs") and not value):
            continue
        if value is True:
            changes.append(name)
        elif not isinstance(value, dict):
            changes.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
        elif not isinstance(old, dict) or old.get("kind") != value.get("kind"):
            changes.append(f"{name} {value.get('kind', 'added')}")
        else:
            changes += [f"{name}.{k} {v}" for k, v in value.items() if old.get(k) != v]
    return changes


@dataclass(frozen=True, slots=True)
class RunStart:
    """A network and the weights that it starts from.

    For random weights, and for a module of the user's own, `weights_path` is None and `fingerprint`
    is "".
    """

    network: ClassifierConfig
    weights_path: Path | None = None
    fingerprint: str = ""


def resolve_start(
    request: RunRequest, dataset: Dataset, default_model: str, source: WeightSource | None
) -> RunStart:
    """Find the network to train and the weights that it starts from.

    The weights `source` also decide the network.  Without them, it is that of the request, or
    `default_model`, with random weights.  Raises UsageError if both a model folder and
    a network are given, or if a network does not fit the data.
    """
    model, shape, classes = request.model, dataset.input, len(dataset.classes)
    if source is None:
        if isinstance(model, nn.Module):
            return RunStart(make_module_classifier(model, shape, classes))
        if isinstance(model, Network):
            return RunStart(adapt_given_network(model, dataset))
        return RunStart(network(model or default_model, input=shape, classes=classes))
    if model is not None and (source.path.is_dir() or not isinstance(model, str)):
        raise UsageError(f"--from {request.weights} already decides the network: leave --model out")
    return RunStart(adapt_network_to_data(source, dataset, model), source.path, source.fingerprint)


def adapt_given_network(given: Network, dataset: Dataset) -> Network:
    """Adapt a network to the number of classes of the data.

    Raises UsageError if the network does not take images of the data's shape.
    """
    if given.input != dataset.input:
        raise UsageError(
            f"{given.name} takes images of shape {given.input}, but those of {dataset.name} have "
            f"shape {dataset.input}: make the network with input={dataset.input}"
        )
    return replace(given, classes=len(dataset.classes))


def resolve_vlad_run(request: RunRequest, model: str, dataset: Dataset) -> ResolvedRun:
    """Make the run of a VLAD classifier.  Raises UsageError for bf16: VLAD is fitted in fp32."""
    if request.precision not in ("auto", "fp32"):
        raise UsageError(
            f"--precision {request.precision} does not apply to vlad, "
            "which is always fitted in fp32: leave it out"
        )
    name = dataset.name
    if isinstance(dataset, PhotoDataset):
        side = request.size or VLAD_IMAGE_SIDE
        dataset = dataset_from_listing(dataset.listing, (3, side, side))
        name = dataset.folder
    classifier = make_vlad_classifier(model, dataset.input, len(dataset.classes))
    return ResolvedRun(Run(classifier, name, recipe=None, seed=request.seed), dataset)
