"""The loggers of one run, as a progress listener."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from residua.config.serialize import Json
from residua.errors import ResiduaError, TrainingError
from residua.record import MetricsRow, RunRecord
from residua.training.loggers.run_logger import RunLogger, collect_logged_values
from residua.training.progress import TrainingProgress


class RunLogs:
    """Passes what a run measures to its loggers, as a context manager around the training.

    `start` is to be called before the first step, on rank 0 alone: an object that was not started
    logs nothing.  A logger that fails in training gets nothing more, and `warn` gets one sentence.
    """

    def __init__(
        self,
        loggers: dict[str, RunLogger],
        warn: Callable[[str], None],
        *,
        is_folder_kept: bool = True,
    ) -> None:
        """`loggers` are given by their names, which stand in warnings.

        `is_folder_kept` says whether the run's folder outlives a failure.
        """
        self.loggers, self.warn, self.is_folder_kept = loggers, warn, is_folder_kept
        self.active: dict[str, RunLogger] = {}
        self.record: RunRecord | None = None  # until the rows of earlier sessions are logged
        self.previous_row: MetricsRow | None = None
        self.batch_size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(None)

    def start(self, record: RunRecord) -> None:
        """Start the loggers; raises TrainingError if one cannot start."""
        settings = record.read_run_json()
        settings = {name: settings[name] for name in ("id", "run", "environment")}
        recipe = record.read_run().recipe
        self.batch_size = recipe.batch_size if recipe else 0
        self.record, self.previous_row = record, None
        for name, logger in self.loggers.items():
            try:
                logger.start(settings, record.folder)
            except ResiduaError:
                raise
            except Exception as error:
                reason = describe_logger_error(error)
                place = f"--resume and --out {record.folder}, " if self.is_folder_kept else ""
                raise TrainingError(
                    f"{name} cannot log this run: {reason}; nothing was trained: repeat the "
                    f"command {place and 'with ' + place}with or without --log"
                ) from error
            self.active[name] = logger

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None:
        """Log the new row of metrics.jsonl, if any; a `ProgressListener`."""
        if not self.active:
            return
        self.log_recorded_rows(progress.step - (line is not None))
        if line is not None:
            self.log_row(line, self.active)

    def log_recorded_rows(self, last_step: int | None = None) -> None:
        """Log the rows of earlier sessions, once, where a logger does not have them.

        By now, training has deleted the rows that it computes again; those after `last_step` are
        new.
        """
        if self.record is None:
            return
        rows, self.record = self.record.read_metrics_so_far(), None
        for row in rows:
            step = row["step"] or 0
            if last_step is None or step <= last_step:
                lacking = {
                    name: logger
                    for name, logger in self.active.items()
                    if step > getattr(logger, "logged_step", step)
                }
                self.log_row(row, lacking)

    def log_row(self, row: MetricsRow, loggers: dict[str, RunLogger]) -> None:
        """Log a row of metrics.jsonl, the first after `previous_row`, with some of the loggers."""
        step = int(row["step"] or 0)
        values = collect_logged_values(row, self.previous_row, self.batch_size)
        self.previous_row = row
        self.call_each(lambda logger: logger.log_values(step, values), loggers)

    def finish(self, result: dict[str, Json] | None) -> None:
        """Give the loggers the result of the run, or None if it has stopped before its end."""
        if result is not None:
            self.log_recorded_rows()
        self.call_each(lambda logger: logger.finish(result), self.active)
        self.active = {}

    def call_each(self, action: Callable[[RunLogger], None], loggers: dict[str, RunLogger]) -> None:
        """Call `action` with each of the loggers, and leave out from then on those that fail."""
        for name, logger in list(loggers.items()):
            try:
                action(logger)
            except Exception as error:
                del self.active[name]
                self.warn(
                    f"{name} failed and gets nothing more of this run, which is not affected: "
                    f"{describe_logger_error(error)}"
                )


def describe_logger_error(error: Exception) -> str:
    """Describe an error of a logger on one line: its last words, or the name of its class."""
    return " ".join(str(error).split()).rstrip(".:") or type(error).__name__
