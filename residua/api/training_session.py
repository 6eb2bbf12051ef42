"""One call of `residua.train`: where its run is kept, and what is said of its progress."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from residua.api.classifier import Classifier
from residua.api.run_pages import write_run_pages
from residua.config.image_views import describe_views
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.photo_storage import AUTO_STORAGE
from residua.config.recipe import Recipe
from residua.config.recipes import resolve_recipe
from residua.config.serialize import Json
from residua.console.output import DataSummaryRecorder, print_notes
from residua.console.progress import ProgressBar, TrainingListener
from residua.data.user_transform import UserTransform
from residua.errors import Interrupted, UsageError
from residua.net.model_folder import load_model_folder, read_model_config
from residua.record import MetricsRow, RunRecord
from residua.training.checkpoint import parse_save_interval
from residua.training.loggers.make_loggers import LOGGER_NAMES
from residua.training.loggers.run_logger import RunLogger
from residua.training.loggers.run_logs import RunLogs
from residua.training.machine import Machine
from residua.training.progress import ProgressListener, TrainingProgress, call_listeners
from residua.training.run import catch_stop_signals, train_run
from residua.training.run_request import ResolvedRun, RunRequest
from residua.training.storage_choice import require_storage_of_record
from residua.training.user_additions import UserAdditions


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """The state of a run after a step, as a callback gets it.

    `metrics` is the new row of metrics.jsonl after an evaluation on the dev images, else None.
    """

    step: int
    total_steps: int
    seconds: float
    metrics: MetricsRow | None


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A trained network.

    net      the network with the weights after the last step, in evaluation mode
    config   its classes, normalisation and origin
    metrics  what `residua train --json` prints
    folder   the run's folder; None if `out` was None
    """

    net: nn.Module
    config: ModelConfig
    metrics: dict[str, Json]
    folder: Path | None

    @property
    def classifier(self) -> Classifier:
        """The network as a classifier, as `residua.load` returns it."""
        return Classifier(self.net, self.config, self.folder)

    def __repr__(self) -> str:
        error = self.metrics["test_error"]
        place = f", in {self.folder}" if self.folder else ""
        views = describe_views(self.config.test_views)
        return f"TrainingResult({self.config.network.name}, test error {error:.2%}{views}{place})"


class CallbackListener:
    """Calls a user's callback after each step, and stops the run if it raises an error."""

    def __init__(self, callback: Callable[[ProgressReport], None]) -> None:
        self.callback = callback
        self.error: Exception | None = None

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None:
        if self.error is None:
            report = ProgressReport(progress.step, progress.total_steps, progress.seconds, line)
            try:
                self.callback(report)
            except Exception as error:
                self.error = error


@dataclass(frozen=True, slots=True)
class TrainingSession:
    """Trains a run in its folder, or in a temporary one, and reports its progress."""

    out: str | Path | None
    resume: bool
    save_every: str
    data_dir: str | Path | None
    on_progress: Callable[[ProgressReport], None] | None
    quiet: bool
    loggers: dict[str, RunLogger] = field(default_factory=dict)

    def train(
        self,
        resolved: ResolvedRun,
        machine: Machine,
        module: nn.Module | None,
        transform: UserTransform | None,
    ) -> TrainingResult:
        """Train the run, and return its network; all ranks must call this method."""
        group = machine.group
        if self.out is None and (self.resume or group.world_size > 1):
            need = "--resume needs" if self.resume else "several processes need"
            raise UsageError(f"{need} the folder of the run: add --out")
        if self.out is None and (names := sorted(set(self.loggers) & set(LOGGER_NAMES))):
            raise UsageError(f"{names[0]} writes to the folder of the run: add --out")
        with ExitStack() as stack:
            folder = Path(
                self.out
                if self.out is not None
                else stack.enter_context(tempfile.TemporaryDirectory(prefix="residua-run-"))
            )
            if self.out is None:
                folder = folder / "run"
            metrics = self.train_in_folder(
                resolved, machine, folder, UserAdditions(module, transform)
            )
            if self.out is not None and group.is_main:
                metrics |= write_run_pages(
                    folder,
                    resolved.dataset,
                    machine,
                    Path(self.data_dir) if self.data_dir else None,
                    was_finished=not metrics["trained"],
                    module=module,
                )
            group.broadcast_from_rank0(lambda: None)  # waits until rank 0 has written the network
            if module is not None:
                return self.make_result(module, read_model_config(folder / "last"), metrics)
            net, config = load_model_folder(folder / "last")
            return self.make_result(net, config, metrics)

    def make_result(
        self, net: nn.Module, config: ModelConfig, metrics: dict[str, Json]
    ) -> TrainingResult:
        kept_folder = None if self.out is None else Path(self.out)
        place: Json = None if kept_folder is None else str(kept_folder)
        return TrainingResult(net.eval(), config, metrics | {"folder": place}, kept_folder)

    def train_in_folder(
        self, resolved: ResolvedRun, machine: Machine, folder: Path, additions: UserAdditions
    ) -> dict[str, Json]:
        """Train the run in `folder`; return the JSON of `residua train` without the folder."""
        is_main = machine.group.is_main
        is_said = is_main and not self.quiet
        record = RunRecord(folder)
        require_storage_of_record(resolved.storage, record)
        if is_said:
            print_notes(
                f"{why} (override: {name})"
                for name, why in resolved.reasons.items()
                if not (name == "storage" and record.run_json_path.exists())
            )
        print_summary = DataSummaryRecorder(is_said)
        was_finished = record.is_finished
        callback = CallbackListener(self.on_progress) if self.on_progress and is_main else None
        bar = ProgressBar("step", hidden=not is_said)
        logs = RunLogs(self.loggers, bar.print_note, is_folder_kept=self.out is not None)
        listeners: list[ProgressListener] = [
            TrainingListener(bar, resolved.run.network.name, data=resolved.dataset),
            logs,
        ]
        if callback is not None:
            listeners.append(callback)
        with bar, logs, catch_stop_signals() as is_stop_requested:
            try:
                result = train_run(
                    resolved.run,
                    folder,
                    machine,
                    data=resolved.dataset,
                    initial_weights=resolved.weights_path,
                    data_dir=Path(self.data_dir) if self.data_dir else None,
                    resume=self.resume,
                    checkpoint_policy=parse_save_interval(self.save_every),
                    additions=additions,
                    on_data=print_summary,
                    on_start=logs.start,
                    on_progress=call_listeners(*listeners),
                    should_stop=lambda: (
                        is_stop_requested() or (callback is not None and callback.error is not None)
                    ),
                )
            except Interrupted as error:
                raise self.choose_stop_error(error, callback) from None
            logs.finish(result)
        if callback is not None and callback.error is not None:
            raise callback.error
        if is_said and was_finished and self.loggers:
            print_notes([f"the run in {folder} is already finished; nothing was logged"])
        return {
            **result,
            "trained": not was_finished,
            "weights_from": record.read_weights_origin(),
            "engine": record.read_engine(),
            **print_summary.json,
        }

    def choose_stop_error(self, error: Interrupted, callback: CallbackListener | None) -> Exception:
        """Return the error to raise after a stop, which says whether and how to resume."""
        way_on = (
            "nothing was kept, since out is None"
            if self.out is None
            else f"to go on, call it again with resume=True and out={str(self.out)!r}"
        )
        if callback is not None and callback.error is not None:
            callback.error.add_note(f"residua.train: the run was stopped; {way_on}")
            return callback.error
        steps = str(error).partition(":")[0]
        return Interrupted(f"{steps}: {way_on}")


def make_training_request(
    model: str | Network | nn.Module | None,
    weights: str | Path | None,
    size: int | None,
    storage: str,
    seed: int,
    recipe: str | Recipe | None,
    epochs: float | None,
    steps: int | None,
    precision: str,
    *,
    balance: bool,
    freeze: bool,
    add_class: bool,
    resumed: Path | None = None,
) -> RunRequest:
    """Make the request that the arguments of `residua.train` describe."""

    def change_recipe(base: Recipe) -> Recipe:
        changed = resolve_recipe(recipe, base).change_duration(steps, epochs)
        return replace(changed, balance=changed.balance or balance, freeze=changed.freeze or freeze)

    choices = {
        "model": model,
        "size": size,
        "recipe": recipe,
        "epochs": epochs,
        "steps": steps,
        "balance": balance or None,
        "storage": None if storage == AUTO_STORAGE else storage,
    }
    return RunRequest(
        model=model,
        weights=weights,
        size=size,
        storage=storage,
        add_class=add_class,
        seed=seed,
        change_recipe=change_recipe,
        precision=precision,
        given=frozenset(name for name, value in choices.items() if value is not None),
        resumed=resumed,
    )
