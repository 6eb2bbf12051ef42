"""Train a network on a data set and store the run in a folder that other commands read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import data, training
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_json_option,
    add_out_option,
    add_precision_option,
    add_recipe_options,
    add_seed_option,
)
from residua.cli.output import print_notes, print_result
from residua.cli.parser import CommandParser
from residua.cli.progress import ProgressBar, TrainingListener
from residua.cli.run_options import ResolvedRun, resolve_run
from residua.config.network import Network
from residua.config.plan import plan
from residua.config.serialize import Json
from residua.record import RunRecord
from residua.report.format import format_duration, format_percent, format_three_digits
from residua.study_records import folder_for_name

if TYPE_CHECKING:
    from residua.training import Machine

MAX_NAMED_FILES = 20  # skipped files that are printed


def add_arguments(parser: CommandParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--model",
        help="a network's name, or vlad (default: the network of --from; else chosen for "
        "photographs, cifar-resnet20 for other data)",
    )
    parser.add_argument(
        "--from",
        help="start from these weights: a run's folder, a model folder, a file, or OWNER/NAME on "
        "the Hugging Face hub (default: random weights)",
    )
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="transfer learning: train only a new final layer on the features of --from",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side in pixels of the square crops of photographs, 8 to 1024 (default: chosen)",
    )
    parser.add_argument(
        "--balance",
        action="store_true",
        help="draw images of all classes equally often, however many images a class has",
    )
    add_recipe_options(parser, default="chosen for photographs, small for digits, else he2015")
    add_seed_option(parser, "the initial weights, the order of images and their augmentation")
    add_out_option(parser, "the run's folder (default: a name for this run under runs/)")
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
    add_precision_option(parser, default="auto")
    parser.add_argument(
        "--recompute",
        help="activation checkpointing, for less memory with bit-identical results: none, unit, "
        "stage or sqrt (default: none)",
    )
    add_data_dir_option(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan of the run, its estimated time and memory, and stop",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    dataset = data.resolve_dataset(arguments.data)
    with training.join_process_group() as group:
        machine = training.detect_machine(arguments.precision, arguments.recompute or "none", group)
        if arguments.dry_run:
            training.parse_save_interval(arguments.save_every)
            resolved = resolve_run(arguments, dataset, machine)
            facts = training.preview_run(
                resolved.run, machine, arguments.data_dir, resolved.dataset
            )
        else:
            facts = train_and_report(arguments, resolve_run(arguments, dataset, machine), machine)
    if group.is_main:
        print_result(facts, format_run_facts(facts), arguments.json)


def train_and_report(
    arguments: Namespace, resolved: ResolvedRun, machine: "Machine"
) -> dict[str, Json]:
    """Train, with notes and a progress bar on standard error; return the result and the folder."""
    run_config, is_main = resolved.run, machine.group.is_main
    name = run_config.network.name
    folder_name = f"{name}-{resolved.dataset.name}-{run_config.id}"
    folder = arguments.out or folder_for_name(Path("runs"), folder_name)
    if is_main:
        print_notes(resolved.choice_notes)
    bar = ProgressBar("step", hidden=not is_main)
    with bar, training.catch_stop_signals() as should_stop:
        result = training.train_run(
            run_config,
            folder,
            machine,
            data=resolved.dataset,
            initial_weights=resolved.weights_path,
            data_dir=arguments.data_dir,
            resume=arguments.resume,
            checkpoint_policy=training.parse_save_interval(arguments.save_every),
            on_progress=TrainingListener(bar, name, describe_run_memory(resolved, machine)),
            should_stop=should_stop,
        )
    if is_main:
        print_notes(describe_skipped_files(RunRecord(folder).read_skipped_images()))
    return {**result, "folder": str(folder)}


def describe_run_memory(resolved: ResolvedRun, machine: "Machine") -> str:
    """The memory estimate of a network's run; "" for VLAD, which has no estimate."""
    network = resolved.run.network
    if not isinstance(network, Network):
        return ""
    return training.describe_memory(resolved.run, plan(network), resolved.dataset, machine)


def describe_skipped_files(skipped: list[dict[str, str]]) -> Iterator[str]:
    """One sentence per photograph that could not be used, at most `MAX_NAMED_FILES`."""
    for problem in skipped[:MAX_NAMED_FILES]:
        yield f"skipped: {problem['path']} {problem['detail']}"
    if len(skipped) > MAX_NAMED_FILES:
        yield f"{len(skipped) - MAX_NAMED_FILES:,} more were skipped: run.json names them all"


def format_run_facts(facts: dict[str, Json]) -> str:
    """One line per fact of a run or a dry run, with units."""
    return "\n".join(
        f"{name.replace('_', ' '):24} {format_fact_value(name, value)}"
        for name, value in facts.items()
    )


def format_fact_value(name: str, value: Json) -> str:
    """A fact's value in the unit that its name implies, e.g. `estimated_seconds`."""
    if "error" in name.split("_") and isinstance(value, float):
        return format_percent(value, digits=2)
    match name.rpartition("_")[2], value:
        case "bytes", int():
            return f"{value / 2**20:,.1f} MiB"
        case "seconds", float():
            return format_duration(value)
        case "rates", list():
            return ", ".join(format_lr_change(change) for change in value)
        case _, float():
            return format_three_digits(value)
        case _, int():
            return f"{value:,}"
    return str(value)


def format_lr_change(change: Json) -> str:
    assert isinstance(change, dict)
    return f"{change['lr']:.4g} from step {change['step']:,}"
