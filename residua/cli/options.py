"""Arguments that several commands share, and the networks and recipes that are made from them."""

import os
from functools import reduce
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser
from residua.cli.recipe_settings import apply_recipe_setting, note_accumulation
from residua.config.dataset import Dataset
from residua.config.name_parts import UNIT_PARTS
from residua.config.network import Network
from residua.config.optimisers import Optimiser
from residua.config.papers import network
from residua.config.published_weights import WEIGHT_NAME
from residua.config.recipe import Recipe
from residua.config.recipes import RECIPES, resolve_recipe
from residua.config.registry import registered_kinds, stored_kind_of
from residua.config.serialize import apply_override, parse_literal, quote_json
from residua.console.output import print_note
from residua.errors import UsageError

FIELDS_OF_OPTIONS = {
    "batch_size": "batch_size",
    "lr": "schedule.lr",
    "weight_decay": "optimiser.weight_decay",
}
"""The options that set one field of a recipe, with the field in the notation of `--set`."""

MODEL_HELP = (
    "a run's folder (its last network is used), a model folder, such as RUN/best, published "
    "weights, such as resnet50 (residua models --weights), or hf:OWNER/NAME on the Hugging Face "
    "hub"
)
DATA_HELP = (
    "a data set (digits, cifar10, cifar100, cifar100-coarse, mnist, fashion-mnist, imagenet) or "
    "photographs: "
    "a folder with one subfolder per class, a CSV table of path,label, WebDataset shards, "
    "an address such as https://HOST/train-{000..123}.tar, or hf:OWNER/NAME on the Hugging Face "
    "hub"
)


def is_given(arguments: Namespace, option: str) -> bool:
    """Return whether the user gave a value for an option whose default is None, False or []."""
    value = arguments[option]
    return value is not None and value is not False and value != []


def parse_model_path(text: str) -> Path:
    """Make the path of a model, or of other weights, from the text that the user gave.

    A missing path that is written as one, such as ./resnet50 or resnet50/, becomes absolute, so
    that it is not the name of published weights.
    """
    path = Path(text)
    is_missing_path = text != str(path) and not os.path.lexists(path)
    return path.absolute() if is_missing_path and WEIGHT_NAME.fullmatch(str(path)) else path


def add_model_argument(parser: CommandParser, help_text: str = MODEL_HELP) -> None:
    parser.add_argument("model", type=parse_model_path, help=help_text)


def add_data_argument(parser: CommandParser, help_text: str = DATA_HELP) -> None:
    parser.add_argument("data", help=help_text)


def add_out_option(
    parser: CommandParser, help_text: str, default: Path | None = None, required: bool = False
) -> None:
    parser.add_argument("--out", type=Path, default=default, required=required, help=help_text)


def add_seed_option(parser: CommandParser, determines: str) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, help=f"the random seed of {determines} (default: 0)"
    )


def add_precision_option(parser: CommandParser, default: str) -> None:
    parser.add_argument(
        "--precision",
        default=default,
        help="number format of the computation: fp32, bf16, or auto: "
        "bf16 if the machine computes fast in it, else fp32",
    )


def add_device_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="what computes: cpu, cuda (a GPU that PyTorch calls cuda; tried on NVIDIA's), or "
        "auto: the GPU if there is one",
    )


def add_engine_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--engine",
        default="auto",
        help="what computes the network: torch, onnx, openvino, "
        "or auto: the fastest installed one whose probabilities agree with torch's; for a few "
        "images torch, which starts fastest",
    )


def add_json_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print only one JSON object on standard output"
    )


def add_offline_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--offline",
        action="store_true",
        help="use no network: only weights and data that are on this machine, as with "
        "HF_HUB_OFFLINE=1",
    )


def add_data_dir_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="the folder of the data sets (default: $RESIDUA_DATA if set, else the cache folder, "
        "into which they are downloaded)",
    )


def add_network_options(parser: CommandParser) -> None:
    """Add `--block`, `--shortcut` and `--order`, which replace parts of a named network."""
    parts = {
        "block": "the layers of a unit's branch",
        "shortcut": "the shortcut at units that change the shape; A, B, C as in He et al. 2015",
        "order": "the order of weight, BN, ReLU and addition in a unit",
    }
    for part, meaning in parts.items():
        values = ", ".join(UNIT_PARTS[part])
        parser.add_argument(f"--{part}", help=f"{meaning}: {values} (default: the network's own)")


def parse_network_options(arguments: Namespace, name: str, data: Dataset | None = None) -> Network:
    """Make the network `name` with the parts given by the options of `add_network_options`.

    If `data` is given, the network has the image shape and the number of classes of that data set.
    """
    return network(
        name,
        block=arguments.block,
        shortcut=arguments.shortcut,
        order=arguments.order,
        input=data.input if data else None,
        classes=len(data.classes) if data else None,
    )


def add_recipe_options(parser: CommandParser, default: str, has_length: bool = True) -> None:
    """Add options that choose a recipe and change it.

    `default` is the help text for the recipe that is used if the user chooses none.  Unless
    `has_length` is True, there are no options for the length of training and the learning rate.
    """
    *names, last_name = RECIPES
    parser.add_argument(
        "--recipe",
        completions=RECIPES,
        help=f"the training recipe: {', '.join(names)} or {last_name}; residua recipes describes "
        f"them (default: {default})",
    )
    if has_length:
        add_length_options(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        help="images per step, summed over all processes (default: the recipe's)",
    )
    kinds = [kind.lower() for kind in registered_kinds(Optimiser)]
    parser.add_argument(
        "--optimiser",
        "--optimizer",
        dest="optimizer",
        metavar="NAME",
        completions=kinds,
        help=f"the update rule: {', '.join(kinds)}; one that is not the recipe's has its own usual "
        "settings and learning rate (default: the recipe's)",
    )
    parser.add_argument(
        "--weight-decay", type=float, help="the optimiser's weight decay (default: the recipe's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change any field of the recipe, e.g. augment.mixup=0.2; can be repeated; "
        "residua recipes NAME lists the fields",
    )


def add_length_options(parser: CommandParser) -> None:
    """Add the options for the length of training and its learning rate."""
    parser.add_argument(
        "--steps", type=int, help="training length in batches (default: the recipe's)"
    )
    parser.add_argument(
        "--epochs",
        type=float,
        help="training length in passes over the training images (default: the recipe's)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        help="the highest learning rate of the schedule (default: the recipe's)",
    )


def apply_recipe_options(arguments: Namespace, base: Recipe) -> Recipe:
    """Make the recipe that `--recipe` names, or else `base`, changed by the other recipe options.

    If `--optimizer` changes the kind of the optimiser and no learning rate is given, the rate is
    the usual one of the optimiser; a note on standard error says so.  Raises UsageError if an
    option is invalid, if both `--steps` and `--epochs` are given, if an option and `--set` set the
    same field, and if an optimiser without a usual learning rate gets none.
    """
    refuse_conflicting_settings(arguments)
    new_recipe = resolve_recipe(arguments.recipe or None, base)
    new_recipe = new_recipe.change_duration(arguments.steps, arguments.epochs)
    kind_before = type(new_recipe.optimiser)
    if arguments.optimizer:
        new_recipe = new_recipe.with_optimiser(arguments.optimizer)
    has_new_kind = type(new_recipe.optimiser) is not kind_before
    new_recipe = reduce(apply_recipe_setting, arguments.set, new_recipe)
    if has_new_kind and not is_lr_given(arguments):
        new_recipe = set_usual_lr(new_recipe)
    settings = [
        f"{field}={arguments[option]}"
        for option, field in FIELDS_OF_OPTIONS.items()
        if is_given(arguments, option)
    ]
    new_recipe = reduce(apply_override, settings, new_recipe)
    if any(sets_field(assignment, "accumulate") for assignment in arguments.set):
        note_accumulation(new_recipe)
    return new_recipe


def refuse_conflicting_settings(arguments: Namespace) -> None:
    """Raise UsageError if `--set` and another given option set the same field."""
    for option, field in {**FIELDS_OF_OPTIONS, "optimizer": "optimiser"}.items():
        for assignment in arguments.set:
            if is_given(arguments, option) and sets_field(assignment, field):
                flag = f"--{option.replace('_', '-')}"
                raise UsageError(
                    f"{flag} and --set {quote_json(assignment)} cannot be combined, because both "
                    f"set {field}: give one of them"
                )


def sets_field(assignment: str, field: str) -> bool:
    """Return whether an assignment, as given to `--set`, sets `field` of a recipe.

    The assignment names the field, or sets the part that contains it to JSON with the field.
    """
    path, _, text = assignment.partition("=")
    part, _, key = field.rpartition(".")
    if path == field or not part or path != part:
        return path == field
    value = parse_literal(text)
    return isinstance(value, dict) and key in value


def is_lr_given(arguments: Namespace) -> bool:
    """Return whether `--lr` or `--set` gives the learning rate."""
    lr_field = FIELDS_OF_OPTIONS["lr"]
    return arguments.lr is not None or any(sets_field(item, lr_field) for item in arguments.set)


def set_usual_lr(recipe_without_lr: Recipe) -> Recipe:
    """Return the recipe with the usual learning rate of its optimiser; a note says so.

    Raises UsageError if the optimiser has no usual learning rate.
    """
    optimiser = recipe_without_lr.optimiser
    kind, lr = stored_kind_of(type(optimiser)), optimiser.USUAL_LR
    if lr is None:
        raise UsageError(f"{kind} has no default learning rate: add --lr")
    print_note(f"learning rate {lr:g}, the default of {kind} (override: --lr)")
    return apply_override(recipe_without_lr, f"{FIELDS_OF_OPTIONS['lr']}={lr}")
