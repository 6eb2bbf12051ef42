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

    def __init__(self, loggers: dict[str, RunLogger], warn: Callable[[str], None]) -> None:
        """`loggers` are given by their names, which stand in warnings."""
        self.loggers, self.warn = loggers, warn
        self.active: dict[str, RunLogger] = {}
        self.recorded_rows: list[MetricsRow] = []
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
        self.recorded_rows = record.read_metrics_so_far()
        for name, logger in self.loggers.items():
            try:
                logger.start(settings, record.folder)
            except ResiduaError:
                raise
            except Exception as error:
                reason = describe_logger_error(error)
                raise TrainingError(
                    f"{name} cannot log this run: {reason}; nothing was trained: repeat the "
                    f"command with --resume and --out {record.folder}, or without --log"
                ) from error
            self.active[name] = logger

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None:
        """Log the new row of metrics.jsonl, if any; a `ProgressListener`."""
        if line is None or not self.active:
            return
        step = int(line["step"] or 0)
        earlier_rows = [row for row in self.recorded_rows if (row["step"] or 0) < step]
        previous_row = earlier_rows[-1] if earlier_rows else None
        self.recorded_rows = [line]
        values = collect_logged_values(line, previous_row, self.batch_size)
        self.call_each(lambda logger: logger.log_values(step, values))

    def finish(self, result: dict[str, Json] | None) -> None:
        """Give the loggers the result of the run, or None if it has stopped before its end."""
        self.call_each(lambda logger: logger.finish(result))
        self.active = {}

    def call_each(self, action: Callable[[RunLogger], None]) -> None:
        """Call `action` with each logger, and leave out from then on those that fail."""
        for name, logger in list(self.active.items()):
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
