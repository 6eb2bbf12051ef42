"""Options of `residua train`, and the request to train that they describe."""

from dataclasses import replace

from jsonargparse import Namespace

from residua import training
from residua.cli.options import apply_recipe_options, is_given
from residua.cli.parser import CommandParser
from residua.config.photo_storage import AUTO_STORAGE, PHOTO_STORAGES
from residua.config.recipe import Recipe
from residua.config.vlad_config import is_vlad_name
from residua.console.output import print_notes
from residua.errors import UsageError
from residua.training.loggers.make_loggers import LOGGER_NAMES

NETWORK_ONLY_OPTIONS = (
    "recipe",
    "steps",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "set",
    "recompute",
    "storage",
    "balance",
    "freeze",
    "from",
    "add_class",
)
CHOSEN_OPTIONS = ("model", "size", "recipe", "steps", "epochs", "balance", "storage")


def add_checkpoint_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the folder's last checkpoint, if it has one",
    )
    parser.add_argument(
        "--save-every",
        default="60s",
        help="how often a checkpoint is written: steps (500), seconds (30s) or minutes (5m)",
    )


def add_log_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--logger",  # torchrun takes --log for an option of its own
        "--log",
        dest="log",
        action="append",
        default=[],
        metavar="NAME",
        completions=LOGGER_NAMES,
        help="also log the curves to tensorboard (event files in the run's folder), wandb or "
        "mlflow; can be repeated; torchrun knows it as --logger only",
    )


def add_storage_option(parser: CommandParser) -> None:
    parser.add_argument(
        "--storage",
        completions=(AUTO_STORAGE, *PHOTO_STORAGES),
        help="how photographs are kept, for crops of the whole photograph: raw pixels, jpeg of "
        "high quality, or files, which are decoded for every batch; squares keeps the middle "
        "square only; auto takes raw or, if pixels need too much space, jpeg (default: auto)",
    )


def add_start_options(parser: CommandParser) -> None:
    """Add the options for the weights that training starts from."""
    parser.add_argument(
        "--from",
        help="start from these weights: a run's folder, a model folder, a file, published weights "
        "such as resnet50 (residua models --weights), hf:OWNER/NAME on the Hugging Face hub, or "
        "none for random weights (default: published weights for photographs if no --model is "
        "given, else none)",
    )
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="transfer learning: train only a new final layer on the features of --from",
    )
    parser.add_argument(
        "--add-class",
        action="store_true",
        help="keep the classes of --from, with their weights of the last layer, and add the new "
        "ones of the data (default: the classes of the data alone)",
    )


def make_run_request(arguments: Namespace) -> "training.RunRequest":
    """Make the request that the options of `residua train` describe.

    Raises UsageError if VLAD is requested with an option that applies only to networks.
    """
    if arguments["from"] == "":
        raise UsageError("--from names no weights: give some, or none for random weights")
    if arguments.model and is_vlad_name(arguments.model):
        for option in NETWORK_ONLY_OPTIONS:
            if is_given(arguments, option):
                flag = f"--{option.replace('_', '-')}"
                raise UsageError(
                    f"{flag} does not apply to --model {arguments.model}: leave it out"
                )

    def change_recipe(recipe: Recipe) -> Recipe:
        changed = apply_recipe_options(arguments, recipe)
        return replace(
            changed,
            balance=changed.balance or arguments.balance,
            freeze=changed.freeze or arguments.freeze,
        )

    return training.RunRequest(
        model=arguments.model or None,
        weights=arguments["from"] or None,
        size=arguments.size,
        storage=arguments.storage or AUTO_STORAGE,
        add_class=arguments.add_class,
        seed=arguments.seed,
        change_recipe=change_recipe,
        precision=arguments.precision,
        given=frozenset(name for name in CHOSEN_OPTIONS if is_given(arguments, name)),
    )


def print_reasons(
    resolved: "training.ResolvedRun", machine: "training.Machine", *, is_begun: bool = False
) -> None:
    """Print the reason for each automatic choice, with the option that overrides it.

    A run that has begun has chosen its storage already.
    """
    if machine.group.is_main:
        print_notes(
            f"{why} (override: --{option})"
            for option, why in resolved.reasons.items()
            if not (is_begun and option == "storage")
        )
