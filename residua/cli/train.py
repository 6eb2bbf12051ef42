"""Train a network on a data set and store the run in a folder that other commands read."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from residua import training
from residua.api.run_pages import write_run_pages
from residua.cli.image_options import (
    add_max_pixels_option,
    add_white_level_option,
    check_image_options,
    resolve_data_argument,
)
from residua.cli.options import (
    add_data_argument,
    add_data_dir_option,
    add_device_option,
    add_json_option,
    add_offline_option,
    add_out_option,
    add_precision_option,
    add_recipe_options,
    add_seed_option,
)
from residua.cli.parser import CommandParser
from residua.cli.requested_run import choose_run_folder, resolve_requested_run
from residua.cli.run_options import (
    add_checkpoint_options,
    add_log_option,
    add_start_options,
    add_storage_option,
    print_reasons,
)
from residua.cli.step_profile import (
    describe_step_profile,
    profile_resolved_run,
    select_shown_facts,
)
from residua.cli.training_outcome import describe_training_outcome
from residua.cli.unexpected_error import save_traceback_and_describe
from residua.config.network import Network
from residua.config.papers import list_models
from residua.config.plan import plan
from residua.config.run import Run
from residua.config.serialize import Json
from residua.console.output import DataSummaryRecorder, print_note, print_notes, print_result
from residua.console.progress import ProgressBar, TrainingListener
from residua.errors import RecordError, UsageError
from residua.record import RunRecord
from residua.report.format import format_quantities

if TYPE_CHECKING:
    from residua.training import Machine, ResolvedRun, RunLogger

MAX_NAMED_FILES = 20  # skipped files that are printed


def add_arguments(parser: CommandParser) -> None:
    add_data_argument(parser)
    parser.add_argument(
        "--model",
        completions=list_models("*"),
        help="a network's name, or vlad (default: the network of --from; else chosen for "
        "photographs, cifar-resnet20 for other data)",
    )
    add_start_options(parser)
    parser.add_argument(
        "--size",
        type=int,
        help="side in pixels of the square crops of photographs, 8 to 1024 (default: chosen)",
    )
    add_storage_option(parser)
    add_max_pixels_option(parser)
    add_white_level_option(parser)
    parser.add_argument(
        "--balance",
        action="store_true",
        help="draw images of all classes equally often, however many images a class has",
    )
    add_recipe_options(parser, default="chosen for photographs, small for digits, else he2015")
    add_seed_option(parser, "the initial weights, the order of images and their augmentation")
    add_out_option(parser, "the run's folder (default: a name for this run under runs/)")
    add_checkpoint_options(parser)
    add_device_option(parser)
    add_precision_option(parser, default="auto")
    parser.add_argument(
        "--recompute",
        help="activation checkpointing, for less memory with bit-identical results: none, unit, "
        "stage or sqrt (default: none)",
    )
    add_data_dir_option(parser)
    add_offline_option(parser)
    add_log_option(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan of the run, its estimated time and memory, and stop; published "
        "weights that it would start from are fetched",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="take some steps, print where their time goes and stop; PROFILE.json.gz, a trace that "
        "ui.perfetto.dev opens, is written to --out (default: a name for this run under profiles/)",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.dry_run and arguments.profile:
        raise UsageError("--dry-run and --profile cannot be combined: give one of them")
    with training.join_process_group() as group:
        check_image_options(arguments)
        loggers = training.make_run_loggers(arguments.log)
        dataset = resolve_data_argument(arguments)
        machine = training.set_up_machine(
            arguments.precision, arguments.recompute or "none", group, arguments.device
        )
        print_summary = DataSummaryRecorder(group.is_main)
        is_resuming = arguments.resume or group.restart_count > 0
        resolved = resolve_requested_run(arguments, dataset, machine, is_resuming)
        if arguments.dry_run or arguments.profile:
            training.parse_save_interval(arguments.save_every)
            print_reasons(resolved, machine)
        if arguments.dry_run:
            facts = training.preview_run(
                resolved.run, machine, arguments.data_dir, resolved.dataset, print_summary
            )
        elif arguments.profile:
            folder = arguments.out or Path("profiles") / choose_run_folder(resolved).name
            facts = profile_resolved_run(resolved, machine, folder, arguments, print_summary)
        else:
            facts = train_and_report(arguments, resolved, machine, print_summary, loggers)
    if not group.is_main:
        return
    outcome: list[str] = []
    if arguments.profile:
        outcome = describe_step_profile(facts)
    elif not arguments.dry_run:
        folder = Path(str(facts["folder"]))
        facts |= write_run_pages(
            folder,
            resolved.dataset,
            machine,
            arguments.data_dir,
            was_finished=not facts["trained"],
            describe_unexpected=save_traceback_and_describe,
        )
        outcome = describe_training_outcome(facts, folder, resolved.dataset, arguments)
    pages = {"page", "evaluation_page"}
    shown = {name: value for name, value in facts.items() if value or name not in pages}
    shown.pop("engine", None)  # --json and run.json have it
    if arguments.profile:
        shown = select_shown_facts(facts)
    if isinstance(origin := facts.get("weights_from"), dict):
        shown["weights_from"] = f"{origin['name']} (SHA-256 {str(origin['sha256'])[:12]}...)"
    lines = [*format_quantities(shown), *outcome]
    print_result(facts | print_summary.json, "\n".join(lines), arguments.json)


def train_and_report(
    arguments: Namespace,
    resolved: "ResolvedRun",
    machine: "Machine",
    print_summary: DataSummaryRecorder,
    loggers: "dict[str, RunLogger]",
) -> dict[str, Json]:
    """Train a run, with notes and a progress bar on standard error.

    Returns the run's result, with the path of its folder added.
    """
    run_config, is_main = resolved.run, machine.group.is_main
    name = run_config.network.name
    folder = arguments.out or choose_run_folder(resolved)
    was_finished, is_begun = RunRecord(folder).is_finished, RunRecord(folder).run_json_path.exists()
    training.require_storage_of_record(resolved.storage, RunRecord(folder))
    print_reasons(resolved, machine, is_begun=is_begun)
    if is_main and arguments.resume and not is_begun:
        print_note(describe_missing_run(folder, run_config))
    bar = ProgressBar("step", hidden=not is_main)
    show = TrainingListener(bar, name, describe_run_memory(resolved, machine), resolved.dataset)
    logs = training.RunLogs(loggers, bar.print_note)
    with bar, logs, training.catch_stop_signals() as should_stop:
        result = training.train_run(
            run_config,
            folder,
            machine,
            data=resolved.dataset,
            initial_weights=resolved.weights_path,
            data_dir=arguments.data_dir,
            resume=arguments.resume,
            checkpoint_policy=training.parse_save_interval(arguments.save_every),
            on_data=print_summary,
            on_start=logs.start,
            on_progress=training.call_listeners(show, logs),
            should_stop=should_stop,
        )
        logs.finish(result)
    if is_main:
        print_notes(describe_skipped_files(RunRecord(folder).read_skipped_images()))
    if is_main and was_finished:
        remedy = "to repeat it, choose another --out"
        if run_config.recipe is not None:
            remedy = f"to train its network further, add --from {folder} and another --out"
        done = "trained or logged" if loggers else "trained"
        print_note(f"the run in {folder} is already finished; nothing was {done}: {remedy}")
    return {
        **result,
        "folder": str(folder),
        "trained": not was_finished,
        "weights_from": RunRecord(folder).read_weights_origin(),
        "engine": RunRecord(folder).read_engine(),
    }


def describe_missing_run(folder: Path, run: Run) -> str:
    """Say that there is no run to resume; name the newest run of the same network beside it."""
    hint = ""
    similar_runs = find_runs_of_network(folder.parent, run)
    if similar_runs and run.recipe is not None:
        newest = similar_runs[-1]
        option = "--from" if RunRecord(newest).is_finished else "--out"
        hint = f" (to go on from {newest}, add {option} {newest})"
    return f"there is no run in {folder} to resume: training starts from the beginning{hint}"


def find_runs_of_network(parent: Path, run: Run) -> list[Path]:
    """Find the folders in `parent` with runs of the network of `run`, the newest last."""
    folders = []
    for path in parent.glob("*/run.json"):
        with suppress(RecordError, UsageError):
            if RunRecord(path.parent).read_run().network == run.network:
                folders.append((path.stat().st_mtime, path.parent))
    return [folder for _, folder in sorted(folders)]


def describe_run_memory(resolved: "ResolvedRun", machine: "Machine") -> str:
    """Describe the estimated memory of a network's run; "" for VLAD, which has no estimate."""
    network = resolved.run.network
    if not isinstance(network, Network):
        return ""
    return training.describe_memory(resolved.run, plan(network), resolved.dataset, machine)


def describe_skipped_files(skipped: list[dict[str, str]]) -> Iterator[str]:
    """Yield one line per photograph that could not be used.

    After `MAX_NAMED_FILES` photographs, one last line says how many others were skipped.
    """
    for problem in skipped[:MAX_NAMED_FILES]:
        yield f"skipped: {problem['path']} {problem['detail']}"
    if len(skipped) > MAX_NAMED_FILES:
        yield f"{len(skipped) - MAX_NAMED_FILES:,} more were skipped: run.json names them all"
