"""Turn a request to train into a run: choose what the request leaves open."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.photo_storage import AUTO_STORAGE
from residua.config.recipe import Recipe, list_recipe_changes
from residua.config.recipes import (
    RECIPE_NETWORKS,
    RECIPE_SIZES,
    recipe,
    require_size_of_recipe,
    usual_recipe,
)
from residua.config.run import Run
from residua.config.vlad_config import VladClassifier, is_vlad_name, make_vlad_classifier
from residua.data.in_memory import InMemoryDataset
from residua.data.sources.resolve import PhotoDataset, dataset_from_listing, resize_for_recipe
from residua.errors import UsageError
from residua.training.added_classes import add_classes_to_model
from residua.training.auto_config import (
    AutoConfig,
    choose_config_for_arrays,
    choose_config_for_photos,
    suit_config_to_recipe,
)
from residua.training.chosen_start import (
    NO_WEIGHTS,
    ChosenStart,
    choose_min_tuning_steps,
    choose_start,
    describe_unused_weights,
)
from residua.training.initial_weights import (
    read_image_size,
    resolve_weight_source,
)
from residua.training.machine import Machine
from residua.training.prepared_network import require_fields_with_effect
from residua.training.run_start import resolve_start
from residua.training.storage_choice import choose_storage_of_run, refuse_storage

DEFAULT_MODEL = "cifar-resnet20"
MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 8, 1024  # allowed range of the image size, in pixels
VLAD_IMAGE_SIDE = 64  # default size of photographs for VLAD, in pixels; our choice


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The options of a run; those that are None are chosen to suit the data and the machine.

    model          name of a network or of VLAD, a network, or a module of the user's own
    weights        the weights to start from: a folder, a file, the name of published weights or
                   hf:OWNER/NAME; "none": random ones; None: chosen for photographs whose network is
                   chosen, too, and else random ones
    size           side of photographs in pixels
    storage        how photographs are kept: a `PhotoStorage`, or auto
    add_class      whether the classes of the weights are kept, and those of the data added
    change_recipe  function that turns the recipe chosen for the data into the one to train with
    given          names of the options that the user gave
    resumed        folder of the run to go on with, if it exists: it has chosen already
    min_tuning     the least number of steps from trained weights, if it is left open; None: chosen
    """

    model: str | Network | nn.Module | None = None
    weights: str | Path | None = None
    size: int | None = None
    storage: str = AUTO_STORAGE
    add_class: bool = False
    seed: int = 0
    change_recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    precision: str = "auto"
    given: frozenset[str] = frozenset()
    resumed: Path | None = None
    min_tuning: int | None = None

    @property
    def min_tuning_steps(self) -> int:
        """The least number of steps from trained weights, where the recipe leaves them open."""
        if self.min_tuning is not None:
            return self.min_tuning
        return choose_min_tuning_steps(self.resumed)


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """A run with its data set, the weights it starts from, and the reasons of automatic choices."""

    run: Run
    dataset: Dataset
    weights_path: Path | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)  # by the option that overrides each
    storage: str = AUTO_STORAGE  # that was requested
    missing: str = ""  # published weights that it would start from, if they could be had


def resolve_run(request: RunRequest, dataset: Dataset, machine: Machine) -> ResolvedRun:
    """Make the run on `dataset` that the request describes, with the storage of its photographs."""
    resolved = resolve_run_before_storage(request, dataset, machine)
    return choose_storage_in_folder(resolved, request.resumed, machine)


def choose_storage_in_folder(
    resolved: ResolvedRun, folder: Path | None, machine: Machine, *, reads_all: bool = True
) -> ResolvedRun:
    """Give a run the storage of its photographs: that of the run in `folder`, or a chosen one.

    To choose may take long for many photographs, which are then read; a run in `folder` needs no
    choice.  Without `reads_all`, few of them are read.  Raises UsageError for an unknown storage.
    """
    data = resolved.dataset
    if not isinstance(data, PhotoDataset) or isinstance(resolved.run.network, VladClassifier):
        return resolved
    stored, reason = choose_storage_of_run(
        resolved.storage, data, machine, folder, reads_all=reads_all
    )
    reasons = {**resolved.reasons, "storage": reason} if reason else resolved.reasons
    return replace(resolved, dataset=stored, reasons=reasons)


def resolve_run_before_storage(
    request: RunRequest, dataset: Dataset, machine: Machine
) -> ResolvedRun:
    """Make the run on `dataset` that the request describes; its photographs have no storage yet.

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
    refuse_storage(request.storage, dataset.name)
    if request.size is not None:
        _, height, width = dataset.input
        raise UsageError(
            f"--size applies only to photographs: leave it out, "
            f"because images of {dataset.name} are always {height} x {width}"
        )
    if isinstance(dataset, InMemoryDataset):
        auto_config = choose_config_for_arrays(
            dataset,
            machine,
            finetune=request.weights is not None,
            min_tuning_steps=request.min_tuning_steps,
        )
        return make_run(request, dataset, dataset.name, auto_config, chosen)
    usual = usual_recipe(dataset.name)
    auto_config = AutoConfig(DEFAULT_MODEL, dataset.input[1], usual, {})
    return make_run(request, dataset, dataset.name, auto_config, chosen)


def resolve_chosen_start(request: RunRequest, dataset: Dataset, machine: Machine) -> ChosenStart:
    """Choose the weights to start from, if the request leaves both them and the network open.

    Weights that it names are fetched, once on each machine.
    """
    weights = None if request.weights == NO_WEIGHTS else request.weights
    if request.weights is None and isinstance(dataset, PhotoDataset):
        if request.model is None and (name := find_recipe_with_size(request, dataset)):
            return ChosenStart(None, f"starts from random weights, for which the recipe {name} is")
        if request.model is None:
            return choose_start(dataset.listing, machine, request.resumed)
        return ChosenStart(None, describe_unused_weights(request.model))
    if weights is None:
        return ChosenStart(None, "")
    source = machine.group.run_local_rank0_first(partial(resolve_weight_source, weights))
    return ChosenStart(weights, "", source)


def find_recipe_with_size(request: RunRequest, dataset: PhotoDataset) -> str:
    """Return the name of the recipe for the request, if it is for one size of images; else ""."""
    from_scratch = request.weights in (None, NO_WEIGHTS)
    usual = usual_recipe(dataset.folder) if from_scratch else recipe("photos")
    name = request.change_recipe(usual).name
    return name if name in RECIPE_SIZES else ""


def resolve_photo_run(
    request: RunRequest, dataset: PhotoDataset, machine: Machine, chosen: ChosenStart
) -> ResolvedRun:
    """Make the run on photographs; choose the image size, the network and the recipe if not given.

    Raises UsageError if the image size is out of range.
    """
    side = request.size or 0
    if request.size is not None:
        require_size_of_recipe(request.change_recipe(recipe("photos")), request.size)
    name_with_size = find_recipe_with_size(request, dataset)
    if request.size is not None and not MIN_IMAGE_SIDE <= side <= MAX_IMAGE_SIDE:
        raise UsageError(
            f"--size {request.size} is invalid: give {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels"
        )
    is_fine_tuning = request.weights is not None
    if chosen.source is not None and not side:
        side = read_image_size(chosen.source)
    elif name_with_size and not side:
        side = RECIPE_SIZES[name_with_size]
    auto_config = choose_config_for_photos(
        dataset.listing,
        machine,
        finetune=is_fine_tuning,
        image_size=side,
        shorter_side=chosen.shorter_side,
        min_tuning_steps=request.min_tuning_steps,
    )
    if name_with_size and chosen.source is None:
        auto_config = suit_config_to_recipe(auto_config, name_with_size)
    image_shape = (3, auto_config.image_size, auto_config.image_size)
    sized_dataset = resize_for_recipe(
        dataset_from_listing(dataset.listing, image_shape),
        request.change_recipe(auto_config.recipe),
    )
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
    start = resolve_start(request.model, request.weights, chosen.source, dataset, default_model)
    may_be_trained = bool(request.weights) or isinstance(request.model, nn.Module)
    require_fields_with_effect(
        chosen_recipe, is_trained=may_be_trained, why_not=chosen.which_is_missing
    )
    dataset = resize_for_recipe(dataset, chosen_recipe)
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
        request.storage,
        chosen.missing,
    )


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
    if request.storage != "squares":
        refuse_storage(request.storage, "VLAD, which is fitted to squares")
    classifier = make_vlad_classifier(model, dataset.input, len(dataset.classes))
    return ResolvedRun(Run(classifier, name, recipe=None, seed=request.seed), dataset)
