"""Train a network on a data set, into a folder that a later command can read."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua.cli.parser import (
    CommandParser,
    add_data_dir_option,
    add_json_option,
    add_recipe_options,
    parse_recipe_options,
    print_json,
)
from residua.config.dataset import Dataset
from residua.config.network import Network
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.serialize import Json
from residua.config.vlad_config import make_vlad_classifier
from residua.errors import UsageError, unknown_name_error
from residua.record import RunRecord

if TYPE_CHECKING:
    from residua.training.machine import Machine

NETWORK_ONLY_OPTIONS = ("recipe", "steps", "epochs", "set", "recompute", "balance", "freeze")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "data",
        help="digits, cifar10, ...; photographs: a folder by class, a table of path,label, shards, hf:OWNER/NAME",
    )
    parser.add_argument(
        "--model",
        help="a network's name, or vlad (default: cifar-resnet20, chosen for a folder, or that of --from)",
    )
    parser.add_argument(
        "--from",
        help="start from these weights: a run, a model folder, a file, OWNER/NAME on the hub",
    )
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="train the last layer alone, on what --from has learned",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="a folder's photographs are cut to squares of so many pixels (default: chosen)",
    )
    parser.add_argument(
        "--balance",
        action="store_true",
        help="show each class equally often, however many images it has",
    )
    add_recipe_options(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="initial weights, order and augmentation follow from it"
    )
    parser.add_argument(
        "--out", type=Path, help="the run's folder (default: a name of its own under runs/)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the folder's checkpoint, where it has one"
    )
    parser.add_argument(
        "--save-every",
        default="60s",
        help="how often a checkpoint is written: 500 (steps), 30s, 5m (default: 60s)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="bf16, fp32, or auto: bf16 where the machine is fast in it",
    )
    parser.add_argument(
        "--recompute",
        help="none, unit, stage or sqrt: compute activations again, for less memory; the same bits",
    )
    add_data_dir_option(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan of the run, with its estimated time, and stop",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    from residua.cli.progress import TrainingBar
    from residua.data.sources.image_folder import resolve_dataset
    from residua.training.checkpoint import parse_save_interval
    from residua.training.distributed import join_process_group
    from residua.training.dry_run import preview_run
    from residua.training.machine import detect_machine
    from residua.training.memory import describe_memory
    from residua.training.run import catch_stop_signals, train_run

    data = resolve_dataset(arguments.data)
    with join_process_group() as group:
        this_machine, saving = (
            detect_machine(arguments.precision, arguments.recompute or "none", group),
            parse_save_interval(arguments.save_every),
        )
        resolved = resolve_run(arguments, data, this_machine)
        run_config = resolved.run
        folder = (
            arguments.out or Path("runs") / f"{run_config.network.name}-{data.name}-{run_config.id}"
        )
        if arguments.dry_run:
            facts = preview_run(run_config, this_machine, arguments.data_dir)
        else:
            if group.is_main:
                print_notes(resolved.choice_notes)
            memory_note = (
                describe_memory(run_config, plan(run_config.network), this_machine)
                if isinstance(run_config.network, Network)
                else ""
            )
            bar = TrainingBar(run_config.network.name, memory_note, hidden=not group.is_main)
            with bar as on_progress, catch_stop_signals() as should_stop:
                result = train_run(
                    run_config,
                    folder,
                    this_machine,
                    initial_weights=resolved.weights_path,
                    data_dir=arguments.data_dir,
                    resume=arguments.resume,
                    checkpoint_policy=saving,
                    on_progress=on_progress,
                    should_stop=should_stop,
                )
            facts = {**result, "folder": str(folder)}
            if group.is_main:
                print_notes(describe_skipped_files(RunRecord(folder).read_skipped_images()))
    if group.is_main:
        print_json(facts) if arguments.json else print(format_run_facts(facts))


@dataclass(frozen=True, slots=True)
class ResolvedRun:
    """A run, the weights it starts from, and sentences about what was chosen for the user."""

    run: Run
    weights_path: Path | None = None
    choice_notes: tuple[str, ...] = ()


def resolve_run(arguments: Namespace, data: Dataset, machine: "Machine") -> ResolvedRun:
    """The run that the options ask for; what they leave open is chosen for a folder by its images and the machine."""
    if vlad_run := resolve_vlad_run(arguments, data):
        return ResolvedRun(vlad_run)
    if arguments.freeze and arguments["from"] is None:
        raise UsageError("--freeze keeps what --from has learned: give that, too")
    if data.kind == "folder":
        return resolve_folder_run(arguments, data, machine)
    if arguments.size is not None:
        raise UsageError(
            f"--size is for folders of photographs: images of {data.name} are {data.input[1]} x {data.input[2]}"
        )
    weights_path, fingerprint, network_config = resolve_weights_and_network(
        arguments, data, "cifar-resnet20"
    )
    return ResolvedRun(
        Run(
            network_config, data.name, resolve_recipe(arguments, data), arguments.seed, fingerprint
        ),
        weights_path,
    )


def resolve_folder_run(arguments: Namespace, data: Dataset, machine: "Machine") -> ResolvedRun:
    """The same for photographs, with what is chosen by their number and size and by the machine."""
    from residua.data.sources.image_folder import dataset_from_listing, list_image_dataset
    from residua.training.auto_config import choose_config
    from residua.training.initial_weights import read_image_size, resolve_weight_source

    if arguments.size is not None and not 8 <= arguments.size <= 1024:
        raise UsageError(f"--size {arguments.size} is impossible: give 8 to 1024 pixels")
    listing, is_fine_tuning = list_image_dataset(data.folder), arguments["from"] is not None
    side = arguments.size or (
        read_image_size(resolve_weight_source(arguments["from"])) if is_fine_tuning else 0
    )
    auto_config = choose_config(listing, machine, finetune=is_fine_tuning, image_size=side)
    weights_path, fingerprint, network_config = resolve_weights_and_network(
        arguments,
        dataset_from_listing(listing, (3, auto_config.image_size, auto_config.image_size)),
        auto_config.model_name,
    )
    recipe = resolve_recipe(arguments, data, auto_config.recipe)
    given_options = {
        option
        for option in ("model", "size", "recipe", "balance")
        if arguments[option] not in (None, False)
    }
    given_options |= {"recipe"} if arguments.steps or arguments.epochs else set()
    given_options |= {"model"} if is_fine_tuning else set()
    choice_notes = tuple(
        f"{why} (otherwise: --{option})"
        for option, why in auto_config.reasons.items()
        if option not in given_options
    )
    return ResolvedRun(
        Run(network_config, data.folder, recipe, arguments.seed, fingerprint),
        weights_path,
        choice_notes,
    )


def resolve_recipe(arguments: Namespace, data: Dataset, default: Recipe | None = None) -> Recipe:
    """The recipe, with what --balance and --freeze change."""
    recipe = parse_recipe_options(arguments, data, default)
    return replace(
        recipe,
        balance=recipe.balance or arguments.balance,
        freeze=recipe.freeze or arguments.freeze,
    )


def describe_skipped_files(skipped: list[dict[str, str]], limit: int = 20) -> Iterator[str]:
    """Which files of a folder were left out, and why."""
    yield from (f"left out: {problem['path']} {problem['detail']}" for problem in skipped[:limit])
    if len(skipped) > limit:
        yield f"{len(skipped) - limit:,} more were left out: run.json names them all"


def print_notes(messages: Iterable[str]) -> None:
    for sentence in messages:
        print(f"residua: {sentence}", file=sys.stderr)


def resolve_vlad_run(arguments: Namespace, data: Dataset) -> Run | None:
    """The run that `--model vlad` asks for; None where another model is asked for."""
    name = str(arguments.model).partition(",")[0]
    if not get_close_matches(name, ["vlad"]):
        return None
    if name != "vlad":
        raise unknown_name_error("model", name, ["vlad"])
    for option in (*NETWORK_ONLY_OPTIONS, "from"):
        if (
            arguments[option] is not None
            and arguments[option] is not False
            and arguments[option] != []
        ):
            raise UsageError(
                f"--{option} is for networks: leave it out with --model {arguments.model}"
            )
    if arguments.precision not in ("auto", "fp32"):
        raise UsageError(
            f"--precision {arguments.precision} is for networks: vlad is fitted in fp32"
        )
    name = data.folder if data.kind == "folder" else data.name
    side = arguments.size or 64
    input_shape = (3, side, side) if data.kind == "folder" else data.input
    return Run(
        make_vlad_classifier(arguments.model, input_shape, len(data.classes)),
        name,
        None,
        arguments.seed,
    )


def resolve_weights_and_network(
    arguments: Namespace, data: Dataset, default_model: str
) -> tuple[Path | None, str, Network]:
    """The weights to start from, their fingerprint, and their network; or none, and a network by name."""
    if arguments["from"] is None:
        return (
            None,
            "",
            network(arguments.model or default_model, input=data.input, classes=len(data.classes)),
        )

    from residua.training.initial_weights import adapt_network_to_data, resolve_weight_source

    weights_source = resolve_weight_source(arguments["from"])
    if weights_source.path.is_dir() and arguments.model:
        raise UsageError(f"--from takes the network of {arguments['from']}: leave --model out")
    return (
        weights_source.path,
        weights_source.fingerprint,
        adapt_network_to_data(weights_source, data, arguments.model),
    )


def format_run_facts(facts: dict[str, Json]) -> str:
    """A line per fact, with units that people read."""
    return "\n".join(
        f"{name.replace('_', ' '):20} {format_fact_value(name, value)}"
        for name, value in facts.items()
    )


def format_fact_value(name: str, value: Json) -> str:
    match name.rpartition("_")[2], value:
        case "error", float():
            return f"{100 * value:.2f} %"
        case "bytes", int():
            return f"{value / 2**20:,.1f} MiB"
        case "seconds", float():
            return str(timedelta(seconds=round(value)))
        case "rates", list(pairs):
            return ", ".join(f"{pair['lr']:.4g} from step {pair['step']:,}" for pair in pairs)  # type: ignore[index,call-overload]
        case _, float():
            return f"{value:,.1f}"
        case _, int():
            return f"{value:,}"
    return str(value)
