"""A study's numbers: for each arm and depth the mean over seeds, its spread, and what is derived from errors and curves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev

from residua.config.serialize import Json
from residua.report.runs import FinishedRun, StudyRuns

CONFIDENCE_LEVEL = 0.95
LEARNED_CHANCE_SHARE = (
    8 / 9
)  # of chance: 80 % of ten classes, below which a run has begun to learn (He et al. 2015, section 4.2)
RENAMED_KEYS = {
    "set_out": "learned_seeds",
    "set_out_step": "first_learned_step",
    "set_out_step_sd": "first_learned_step_sd",
    "set_out_step_ci": "first_learned_step_ci",
    "line_every": "measured_every",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCell:
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
    train_error_reestimated: float | None = (
        None  # with BN statistics of the last weights; where all seeds have it
    )
    train_error_reestimated_sd: float | None = None
    train_loss: float | None = None  # nats, of the same pass
    train_loss_sd: float | None = None
    dev_error: float
    dev_error_sd: float | None = None
    test_error: float
    test_error_sd: float | None = None
    gap: float | None = (
        None  # test error minus training error, the re-estimated one where there is one
    )
    gap_sd: float | None = None
    learned_seeds: int | None = None  # seeds that began to learn
    first_learned_step: float | None = None
    first_learned_step_sd: float | None = None
    measured_every: int | None = None
    steps: int | None = None
    parameters: int | None = None
    seconds: float | None = None  # of one run

    @property
    def comparable_train_error(self) -> float:
        """The training error to compare: the re-estimated one where there is one."""
        return (
            self.train_error
            if self.train_error_reestimated is None
            else self.train_error_reestimated
        )

    @property
    def comparable_train_error_sd(self) -> float | None:
        return (
            self.train_error_sd
            if self.train_error_reestimated is None
            else self.train_error_reestimated_sd
        )

    @property
    def json(self) -> dict[str, Json]:
        """All fields, and for each sd the half-width of the mean's confidence interval (`*_ci`).

        The keys of version 0.1 in `RENAMED_KEYS` are written beside their successors for one more version.
        """
        content: dict[str, Json] = asdict(self)
        for name in [name for name in content if name.endswith("_sd")]:
            content[f"{name.removesuffix('_sd')}_ci"] = ci_half_width(
                getattr(self, name), self.seeds
            )
        return content | {old: content[new] for old, new in RENAMED_KEYS.items()}


def average_runs_over_seeds(runs: StudyRuns) -> list[StudyCell]:
    """The finished runs averaged over seeds, by arm and depth."""
    groups: dict[tuple[str, int], list[FinishedRun]] = {}
    for run in runs.finished:
        groups.setdefault((run.arm, run.depth), []).append(run)
    return [average_cell_runs(group) for group in groups.values()]


def average_cell_runs(cell_runs: list[FinishedRun]) -> StudyCell:
    first_run, results = cell_runs[0], [run.result for run in cell_runs]
    train, dev, test = (
        [getattr(result, f"{split}_error") for result in results]
        for split in ("train", "dev", "test")
    )
    recalibrated, train_losses = (
        all_known_or_empty([getattr(result, name) for result in results])
        for name in ("train_error_reestimated", "train_loss")
    )
    gaps = [after - before for after, before in zip(test, recalibrated or train, strict=True)]
    learned_steps = [find_first_learned_step(run) for run in cell_runs]
    steps_to_learn = [
        run.result.steps if step is None else step
        for run, step in zip(cell_runs, learned_steps, strict=True)
    ]
    has_metrics = all(run.metric_lines for run in cell_runs)
    return StudyCell(
        arm=first_run.arm,
        family=first_run.family,
        depth=first_run.depth,
        seeds=len(cell_runs),
        parameters=first_run.parameters,
        train_error=fmean(train),
        train_error_sd=sample_sd_or_none(train),
        train_error_reestimated=mean_or_none(recalibrated),
        train_error_reestimated_sd=sample_sd_or_none(recalibrated),
        train_loss=mean_or_none(train_losses),
        train_loss_sd=sample_sd_or_none(train_losses),
        dev_error=fmean(dev),
        dev_error_sd=sample_sd_or_none(dev),
        test_error=fmean(test),
        test_error_sd=sample_sd_or_none(test),
        gap=fmean(gaps),
        gap_sd=sample_sd_or_none(gaps),
        learned_seeds=sum(step is not None for step in learned_steps) if has_metrics else None,
        first_learned_step=fmean(steps_to_learn) if has_metrics else None,
        first_learned_step_sd=sample_sd_or_none(steps_to_learn) if has_metrics else None,
        measured_every=int(first_run.metric_lines[0]["step"] or 0) if has_metrics else None,
        steps=first_run.result.steps,
        seconds=fmean(result.seconds for result in results),
    )


def find_first_learned_step(run: FinishedRun) -> int | None:
    """The first measured step at which the run has begun to learn; None where it never does."""
    learned_below = LEARNED_CHANCE_SHARE * (1 - 1 / run.num_classes)
    for line in run.metric_lines:
        error, step = line.get("train_error"), line.get("step")
        if error is not None and step is not None and error < learned_below:
            return int(step)
    return None


def all_known_or_empty(values: list[float | None]) -> list[float]:
    """The values, where all are known; none otherwise, for a mean over some of the seeds is that of another cell."""
    known_values = [value for value in values if value is not None]
    return known_values if len(known_values) == len(values) else []


def mean_or_none(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def sample_sd_or_none(values: Sequence[float]) -> float | None:
    """The sample standard deviation, which one value does not have."""
    return stdev(values) if len(values) > 1 else None


def ci_half_width(sd: float | None, num_seeds: int) -> float | None:
    """Half of the 95 % confidence interval of a mean over seeds, by Student's t; None for a single seed."""
    if sd is None:
        return None
    from scipy.stats import t  # slow to import, and not needed for a single seed

    return float(t.ppf((1 + CONFIDENCE_LEVEL) / 2, num_seeds - 1)) * sd / sqrt(num_seeds)
