"""The progress bar of all commands, and the callbacks that update it in training and in studies."""

import os
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

from residua.config.dataset import Dataset
from residua.console.data_wait import describe_data_wait
from residua.console.output import print_note
from residua.report.format import format_quantity

if TYPE_CHECKING:
    from tqdm.std import tqdm

    from residua.record import MetricsRow
    from residua.training.progress import TrainingProgress

SHARE_FORMAT = "{desc}: {percentage:3.0f} %|{bar}| elapsed {elapsed}, remaining {remaining}"
COUNT_FORMAT = (
    "{desc}: {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}, "
    "elapsed {elapsed}, remaining {remaining}, {rate_noinv_fmt}"
)
UNKNOWN_TOTAL_FORMAT = "{desc}: {n_fmt}, elapsed {elapsed}, {rate_noinv_fmt}"
LOG_SECONDS = "10"  # between two lines of a bar that goes to a file

ItemT = TypeVar("ItemT")


def update_bars_rarely_in_logs() -> None:
    """Make tqdm write a line only every 10 s if standard error is not a terminal.

    tqdm reads the environment variable `TQDM_MININTERVAL` when it is imported, so this function
    must be called before tqdm is imported.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", LOG_SECONDS)


class ProgressBar:
    """A progress bar on standard error that shows the rate, the elapsed and the remaining time.

    The bar opens at its first update, so that an earlier error is not printed next to a bar.
    """

    def __init__(self, unit: str = "", hidden: bool = False) -> None:
        """`unit` is the name of one counted item, e.g. `step`; a `hidden` bar shows nothing.

        If `unit` is "", the bar shows a percentage of the work, without a rate.
        """
        self.unit, self.hidden = unit, hidden
        self.bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar and leave its last state on the screen; the next update opens a new bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def update(self, label: str, done: float, total: float | None, details: str = "") -> None:
        """Show that `done` of `total` items are finished; a new `label` opens a new bar."""
        if self.hidden:
            return
        if self.bar is not None and self.bar.desc != label:
            self.close()
        if self.bar is None:
            self.bar = self.open_bar(label, done, total)
        self.bar.set_postfix_str(details, refresh=False)
        self.bar.update(done - self.bar.n)

    def open_bar(self, label: str, done: float, total: float | None) -> "tqdm[NoReturn]":
        from tqdm.std import tqdm

        layout = COUNT_FORMAT if self.unit else SHARE_FORMAT
        return tqdm(
            desc=label,
            initial=done,  # the rate counts only what is done from now on
            total=total,
            unit=f" {self.unit}",
            dynamic_ncols=True,
            bar_format=(layout if total else UNKNOWN_TOTAL_FORMAT) + "{postfix}",
        )

    def print_note(self, message: str) -> None:
        """Print a note on a line of its own, above the bar."""
        if self.hidden:
            return
        if self.bar is None:
            print_note(message)
            return
        with self.bar.external_write_mode(file=sys.stderr):
            print_note(message)

    def track(
        self, items: Iterable[ItemT], label: str, total: int | None = None
    ) -> Iterator[ItemT]:
        """Yield the items, and show on the bar how many are done.

        `total` is the number of items; it is needed only if `items` is neither a list nor a tuple.
        """
        total = len(items) if isinstance(items, (list, tuple)) else total
        for count, item in enumerate(items, 1):
            yield item
            self.update(label, count, total)
        self.close()


class TrainingListener:
    """Shows the steps, losses and errors of one run on a bar, and prints notes above the bar."""

    def __init__(
        self, bar: ProgressBar, name: str, opening_note: str = "", data: Dataset | None = None
    ) -> None:
        """`name` labels the bar; `opening_note` is printed above the bar at the first step.

        If training waits much for the photographs of `data`, that is said once.
        """
        self.bar, self.name, self.opening_note, self.details = bar, name, opening_note, ""
        self.storage, self.has_noted_wait = getattr(data, "storage", ""), False

    def __call__(self, progress: "TrainingProgress", line: "MetricsRow | None") -> None:
        if line:
            self.details = format_training_details(progress, line)
        self.bar.update(self.name, progress.step, progress.total_steps, self.details)
        for note in filter(None, (self.opening_note, progress.note, self.note_wait(progress))):
            self.bar.print_note(note)
        self.opening_note = ""

    def note_wait(self, progress: "TrainingProgress") -> str:
        """Say, at the first row of metrics.jsonl that shows it, that training waits for data."""
        if not self.details or self.has_noted_wait:
            return ""
        note = describe_data_wait(progress.data_wait, self.storage)
        self.has_noted_wait = bool(note)
        return note


def format_training_details(progress: "TrainingProgress", line: "MetricsRow") -> str:
    """Format the text to the right of the bar, e.g. `loss=0.123, dev error=5.00 %, lr=0.1`.

    `data wait` is the time spent waiting for data, as a share of the training time.
    """
    values = {name: line[name] for name in ("loss", "train_error", "dev_error", "lr")}
    values["data_wait"] = progress.data_wait
    return ", ".join(
        f"{name.replace('_', ' ')}={format_quantity(name, value)}"
        for name, value in values.items()
        if value is not None
    )


class StudyProgress:
    """Shows the progress of all runs of a study on one bar.

    A run's share of the bar is proportional to its number of layers, because its training time is
    too.
    """

    def __init__(self, bar: ProgressBar, layers_by_run: dict[str, int]) -> None:
        self.bar, self.layers_by_run = bar, layers_by_run
        self.done_shares = dict.fromkeys(layers_by_run, 0.0)  # of each run, in [0, 1]

    def __call__(self, run_name: str, step: int, total_steps: int) -> None:
        self.done_shares[run_name] = step / total_steps
        done_layers = sum(
            self.done_shares[name] * layers for name, layers in self.layers_by_run.items()
        )
        finished = sum(share == 1 for share in self.done_shares.values())
        self.bar.update(
            "study",
            done_layers,
            sum(self.layers_by_run.values()),
            f"{finished} of {len(self.layers_by_run)} runs done",
        )
