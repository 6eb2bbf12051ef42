"""A study's numbers: for each arm and depth the mean over seeds, its spread, and what is derived from errors and curves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev

from residua.report.runs import Finished, Runs
from residua.spec.text import Json

CONFIDENCE = 0.95
SET_OUT = 8 / 9  # of chance: 80 % of ten classes, below which a run has begun to learn (He et al. 2015, section 4.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """An arm at a depth: the mean over `seeds` runs and the sample sd, None for a single seed; errors in [0, 1].

    `set_out_step` is the first measured step whose training error, on the augmented batches since the line before, is below
    8/9 of chance; a run that never gets there counts with all its steps.  It is known to `line_every` steps.
    """

    arm: str
    family: str
    depth: int
    seeds: int  # how many
    train_error: float
    train_error_sd: float | None = None
    train_error_reestimated: float | None = None  # with BN statistics of the last weights; where all seeds have it
    train_error_reestimated_sd: float | None = None
    train_loss: float | None = None  # nats, of the same pass
    train_loss_sd: float | None = None
    dev_error: float
    dev_error_sd: float | None = None
    test_error: float
    test_error_sd: float | None = None
    gap: float | None = None  # test error minus training error, the re-estimated one where there is one
    gap_sd: float | None = None
    set_out: int | None = None  # seeds that began to learn
    set_out_step: float | None = None
    set_out_step_sd: float | None = None
    line_every: int | None = None
    steps: int | None = None
    parameters: int | None = None
    seconds: float | None = None  # of one run

    @property
    def fit(self) -> float:
        """The training error to compare: the re-estimated one where there is one."""
        return self.train_error if self.train_error_reestimated is None else self.train_error_reestimated

    @property
    def fit_sd(self) -> float | None:
        return self.train_error_sd if self.train_error_reestimated is None else self.train_error_reestimated_sd

    @property
    def json(self) -> dict[str, Json]:
        """All of it, and beside each sd the half width of the confidence interval of the mean."""
        found: dict[str, Json] = asdict(self)
        for name in [name for name in found if name.endswith("_sd")]:
            found[f"{name.removesuffix('_sd')}_ci"] = half_width(getattr(self, name), self.seeds)
        return found


def cells(runs: Runs) -> list[Cell]:
    """The finished runs averaged over seeds, by arm and depth."""
    groups: dict[tuple[str, int], list[Finished]] = {}
    for run in runs.finished:
        groups.setdefault((run.arm, run.depth), []).append(run)
    return [averaged(group) for group in groups.values()]


def averaged(group: list[Finished]) -> Cell:
    first, results = group[0], [run.result for run in group]
    train, dev, test = ([getattr(result, f"{split}_error") for result in results] for split in ("train", "dev", "test"))
    again, loss = (known([getattr(result, name) for result in results]) for name in ("train_error_reestimated", "train_loss"))
    gaps = [after - before for after, before in zip(test, again or train, strict=True)]
    begun = [set_out(run) for run in group]
    starts = [run.result.steps if step is None else step for run, step in zip(group, begun, strict=True)]
    measured = all(run.lines for run in group)
    return Cell(
        arm=first.arm, family=first.family, depth=first.depth, seeds=len(group), parameters=first.parameters,
        train_error=fmean(train), train_error_sd=spread(train),
        train_error_reestimated=mean(again), train_error_reestimated_sd=spread(again),
        train_loss=mean(loss), train_loss_sd=spread(loss),
        dev_error=fmean(dev), dev_error_sd=spread(dev),
        test_error=fmean(test), test_error_sd=spread(test),
        gap=fmean(gaps), gap_sd=spread(gaps),
        set_out=sum(step is not None for step in begun) if measured else None,
        set_out_step=fmean(starts) if measured else None, set_out_step_sd=spread(starts) if measured else None,
        line_every=int(first.lines[0]["step"] or 0) if measured else None,
        steps=first.result.steps, seconds=fmean(result.seconds for result in results),
    )  # fmt: skip


def set_out(run: Finished) -> int | None:
    """The first measured step at which the run has begun to learn; None where it never does."""
    below = SET_OUT * (1 - 1 / run.classes)
    for line in run.lines:
        error, step = line.get("train_error"), line.get("step")
        if error is not None and step is not None and error < below:
            return int(step)
    return None


def known(values: list[float | None]) -> list[float]:
    """The values, where all are known; none otherwise, for a mean over some of the seeds is that of another cell."""
    kept = [value for value in values if value is not None]
    return kept if len(kept) == len(values) else []


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation, which one value does not have."""
    return stdev(values) if len(values) > 1 else None


def half_width(sd: float | None, seeds: int) -> float | None:
    """Half of the 95 % confidence interval of a mean over seeds, by Student's t; None for a single seed."""
    if sd is None:
        return None
    from scipy.stats import t  # slow to import, and not needed for a single seed

    return float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * sd / sqrt(seeds)
