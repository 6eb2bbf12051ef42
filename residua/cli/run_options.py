"""Turns the options of `residua train` into a run, and chooses what the options leave open."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import data, training
from residua.cli.options import is_given, parse_recipe_options
from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.papers import network
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.vlad_config import make_vlad_classifier
from residua.errors import UsageError, unknown_name_error

if TYPE_CHECKING:
    from residua.data import PhotoDataset
    from residua.training import Machine

DEFAULT_MODEL = "cifar-resnet20"
MIN_IMAGE_SIDE, MAX_IMAGE_SIDE = 8, 1024  # allowed range of --size, in pixels
VLAD_IMAGE_SIDE = 64  # default --size of photographs for VLAD, in pixels; our choice
NETWORK_ONLY_OPTIONS = (
    "recipe",
    "steps",
    "epochs",
    "set",
    "recompute",
    "balance",
    "freeze",
    "from",
)


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """A run with its data set, the weights it starts from, and notes on automatic choices."""

    run: Run
    dataset: Dataset
    weights_path: Path | None = None
    choice_notes: tuple[str, ...] = ()


def resolve_run(arguments: Namespace, dataset: Dataset, machine: "Machine") -> ResolvedRun:
    """Make the run on `dataset` that the options describe.

    For photographs, missing options are chosen automatically to suit the images and the machine.
    Raises UsageError for options that do not fit the data, the model or each other.
    """
    if is_vlad_requested(arguments):
        return resolve_vlad_run(arguments, dataset)
    if arguments.freeze and not is_given(arguments, "from"):
        raise UsageError("--freeze needs pretrained weights: add --from")
    if isinstance(dataset, data.PhotoDataset):
        return resolve_photo_run(arguments, dataset, machine)
    if arguments.size is not None:
        _, height, width = dataset.input
        raise UsageError(
            f"--size applies only to photographs: leave it out, "
            f"because images of {dataset.name} are always {height} x {width}"
        )
    start = resolve_start(arguments, dataset, DEFAULT_MODEL)
    recipe = resolve_recipe(arguments, dataset)
    run = Run(start.network, dataset.name, recipe, arguments.seed, start.fingerprint)
    return ResolvedRun(run, dataset, start.weights_path)


def resolve_photo_run(
    arguments: Namespace, dataset: "PhotoDataset", machine: "Machine"
) -> ResolvedRun:
    """Make the run on photographs; choose the image size, the network and the recipe if not given.

    Raises UsageError if `--size` is out of range.
    """
    if arguments.size is not None and not MIN_IMAGE_SIDE <= arguments.size <= MAX_IMAGE_SIDE:
        raise UsageError(
            f"--size {arguments.size} is invalid: give {MIN_IMAGE_SIDE} to {MAX_IMAGE_SIDE} pixels"
        )
    is_fine_tuning = is_given(arguments, "from")
    side = arguments.size or 0
    if is_fine_tuning and not side:
        side = training.read_image_size(training.resolve_weight_source(arguments["from"]))
    listing = dataset.listing
    auto_config = training.choose_config(listing, machine, finetune=is_fine_tuning, image_size=side)
    image_shape = (3, auto_config.image_size, auto_config.image_size)
    sized_dataset = data.dataset_from_listing(listing, image_shape)
    start = resolve_start(arguments, sized_dataset, auto_config.model_name)
    recipe = resolve_recipe(arguments, dataset, auto_config.recipe)
    settled_options = list_settled_options(arguments)
    return ResolvedRun(
        Run(start.network, dataset.folder, recipe, arguments.seed, start.fingerprint),
        sized_dataset,
        start.weights_path,
        tuple(
            f"{reason} (override: --{option})"
            for option, reason in auto_config.reasons.items()
            if option not in settled_options
        ),
    )


def list_settled_options(arguments: Namespace) -> set[str]:
    """List which of `model`, `size`, `recipe` and `balance` are not chosen automatically.

    These are the options that the user gave, and those whose value follows from other given
    options.
    """
    settled = {
        option for option in ("model", "size", "recipe", "balance") if is_given(arguments, option)
    }
    if arguments.steps or arguments.epochs:
        settled.add("recipe")
    if is_given(arguments, "from"):
        settled.add("model")
    return settled


def resolve_recipe(arguments: Namespace, dataset: Dataset, default: Recipe | None = None) -> Recipe:
    """Make the recipe that the options describe, including `--balance` and `--freeze`."""
    recipe = parse_recipe_options(arguments, dataset, default)
    return replace(
        recipe,
        balance=recipe.balance or arguments.balance,
        freeze=recipe.freeze or arguments.freeze,
    )


@dataclass(frozen=True, slots=True)
class RunStart:
    """A network and the weights that it starts from.

    For random weights, `weights_path` is None and `fingerprint` is "".
    """

    network: Network
    weights_path: Path | None = None
    fingerprint: str = ""


def resolve_start(arguments: Namespace, dataset: Dataset, default_model: str) -> RunStart:
    """Find the network to train and the weights that it starts from.

    With `--from`, both come from that source.  Otherwise the network is that of `--model`, or
    `default_model`, with random weights.  Raises UsageError if `--from` names a folder and
    `--model` is given too.
    """
    if not is_given(arguments, "from"):
        name = arguments.model or default_model
        return RunStart(network(name, input=dataset.input, classes=len(dataset.classes)))
    weights_source = training.resolve_weight_source(arguments["from"])
    if weights_source.path.is_dir() and arguments.model:
        raise UsageError(
            f"--from {arguments['from']} already decides the network: leave --model out"
        )
    adapted_network = training.adapt_network_to_data(weights_source, dataset, arguments.model)
    return RunStart(adapted_network, weights_source.path, weights_source.fingerprint)


def is_vlad_requested(arguments: Namespace) -> bool:
    """Whether `--model` names VLAD.  Raises UsageError for a misspelled `vlad`."""
    name = str(arguments.model).partition(",")[0]
    if name != "vlad" and get_close_matches(name, ["vlad"]):
        raise unknown_name_error("model", name, ["vlad"])
    return name == "vlad"


def resolve_vlad_run(arguments: Namespace, dataset: Dataset) -> ResolvedRun:
    """Make the run of `--model vlad`.

    Raises UsageError for options that apply only to networks.
    """
    for option in NETWORK_ONLY_OPTIONS:
        if is_given(arguments, option):
            raise UsageError(
                f"--{option} does not apply to --model {arguments.model}: leave it out"
            )
    if arguments.precision not in ("auto", "fp32"):
        raise UsageError(
            f"--precision {arguments.precision} does not apply to vlad, "
            "which is always fitted in fp32: leave it out"
        )
    name = dataset.name
    if isinstance(dataset, data.PhotoDataset):
        side = arguments.size or VLAD_IMAGE_SIDE
        dataset = data.dataset_from_listing(dataset.listing, (3, side, side))
        name = dataset.folder
    classifier = make_vlad_classifier(arguments.model, dataset.input, len(dataset.classes))
    return ResolvedRun(Run(classifier, name, recipe=None, seed=arguments.seed), dataset)
