"""Progress bars on standard error, with a rate and the time left."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from tqdm.std import tqdm

from residua.record import MetricsRow
from residua.training.loop import TrainingProgress

if TYPE_CHECKING:
    TqdmBar: TypeAlias = tqdm[NoReturn]

STUDY_BAR_FORMAT = "{desc}: {percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} left{postfix}"


class TrainingBar:
    """Follows one run; a listener for `fit`, and hidden by all but one of several processes."""

    def __init__(self, name: str, opening_note: str = "", hidden: bool = False) -> None:
        self.name, self.hidden = name, hidden
        self.opening_note = "" if hidden else opening_note  # what to say before the first step
        self.bar: TqdmBar | None = (
            None  # opened at the first news, so that an error before it stands alone
        )

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None:
        if self.hidden:
            return
        bar = self.bar
        if bar is None:
            bar = self.bar = tqdm(
                desc=self.name,
                total=progress.total_steps,
                initial=progress.step,
                unit="step",
                dynamic_ncols=True,
            )
            if self.opening_note:
                bar.write(f"residua: {self.opening_note}", file=sys.stderr)
        bar.update(progress.step - bar.n)
        if progress.note:
            bar.write(f"residua: {progress.note}", file=sys.stderr)
        if line:
            postfix = {
                name.replace("_", " "): line[name]
                for name in ("loss", "train_error", "dev_error", "lr")
            }
            postfix["data wait"] = progress.data_wait_seconds / progress.seconds
            bar.set_postfix(
                {name: f"{value:.3g}" for name, value in postfix.items() if value is not None}
            )


class StudyBar:
    """Follows many runs at once; each counts as many layers as it has, for that is what it costs."""

    def __init__(self, layers_by_run: dict[str, int]) -> None:
        self.layers_by_run, self.done_shares = layers_by_run, dict.fromkeys(layers_by_run, 0.0)
        self.bar: TqdmBar | None = (
            None  # opened at the first news, so that an error before it stands alone
        )

    def __call__(self, name: str, step: int, steps: int) -> None:
        if self.bar is None:
            self.bar = tqdm(
                desc="study", total=100, unit="%", dynamic_ncols=True, bar_format=STUDY_BAR_FORMAT
            )
        self.done_shares[name] = step / steps
        share = sum(
            self.done_shares[run] * layers for run, layers in self.layers_by_run.items()
        ) / sum(self.layers_by_run.values())
        self.bar.update(100 * share - self.bar.n)
        self.bar.set_postfix_str(
            f"{sum(done == 1 for done in self.done_shares.values())} of {len(self.layers_by_run)} runs done"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class LesionBar:
    """Follows one net after the other through its lesions."""

    def __init__(self) -> None:
        self.bar: TqdmBar | None = None

    def __enter__(self) -> "LesionBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, label: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.desc != label:
            if self.bar is not None:
                self.bar.close()
            self.bar = tqdm(total=total, unit="lesion", dynamic_ncols=True)
            self.bar.desc = label
        self.bar.update(done - self.bar.n)


class SignalsBar:
    """Follows a measurement through the units of a network."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: TqdmBar | None = None  # opened at the first news

    def __enter__(self) -> "SignalsBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, units: int) -> None:
        if self.bar is None:
            self.bar = tqdm(desc=self.name, total=units, unit="unit", dynamic_ncols=True)
        self.bar.update(done - self.bar.n)
