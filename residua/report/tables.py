"""Averages over the seeds of a study: mean and standard deviation for each arm and depth.

In a study with folds, the errors of a seed are means over its folds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from statistics import fmean, stdev

from residua.config.serialize import Json
from residua.report.recorded_run import FinishedRun, RunResult
from residua.report.runs import StudyRuns

CONFIDENCE_LEVEL = 0.95
LEARNED_CHANCE_SHARE = 8 / 9
"""A run starts learning when its training error falls below this share of the guessing error.

For ten classes that is 80 % (He et al. 2015, section 4.2).
"""
RENAMED_KEYS = {
    "set_out": "learned_seeds",
    "set_out_step": "first_learned_step",
    "set_out_step_sd": "first_learned_step_sd",
    "set_out_step_ci": "first_learned_step_ci",
    "line_every": "measured_every",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCell:
    """One arm at one depth: means over `seeds` runs, and sample standard deviations (`*_sd`).

    Errors are in [0, 1].  The standard deviation of a single seed is None.

    A run starts learning at the first measured step at which its training error is below 8/9 of the
    error of random guessing.  This training error is an average over the augmented batches since
    the previous measurement, so the step is known only to within `measured_every` steps.
    `first_learned_step` is the mean of this step over the runs; a run that never starts learning
    counts with its total number of steps.
    """

    arm: str
    family: str
    depth: int
    seeds: int  # the number of runs, or in a study with folds the number of seeds
    train_error: float
    train_error_sd: float | None = None
    # with BN statistics re-estimated with the final weights; None unless every seed has it
    train_error_reestimated: float | None = None
    train_error_reestimated_sd: float | None = None
    train_loss: float | None = None  # nats, of the pass that measured the re-estimated error
    train_loss_sd: float | None = None
    dev_error: float | None
    dev_error_sd: float | None = None
    test_error: float
    test_error_sd: float | None = None
    gap: float | None = None  # test error minus `comparable_train_error`, as in earlier versions
    gap_sd: float | None = None
    # test error minus `train_error`: both are measured with the running BN statistics
    generalisation_gap: float | None = None
    generalisation_gap_sd: float | None = None
    learned_seeds: int | None = None  # the number of seeds that started learning
    first_learned_step: float | None = None
    first_learned_step_sd: float | None = None
    measured_every: int | None = None
    steps: int | None = None  # of each run
    parameters: int | None = None
    seconds: float | None = None  # the mean training time of a run
    folds: int | None = None  # the number of folds that were held out; None without folds
    # the error on held-out folds: its mean over folds, and the standard error of that mean
    fold_error: float | None = None
    fold_error_se: float | None = None

    @property
    def comparable_train_error(self) -> float:
        """The training error to compare between nets: the re-estimated one if it was measured.

        A test error is measured with running BN statistics, so it is compared with `train_error`.
        """
        if self.train_error_reestimated is None:
            return self.train_error
        return self.train_error_reestimated

    @property
    def comparable_train_error_sd(self) -> float | None:
        """The standard deviation of `comparable_train_error`."""
        if self.train_error_reestimated is None:
            return self.train_error_sd
        return self.train_error_reestimated_sd

    @property
    def json(self) -> dict[str, Json]:
        """All fields, and for each `*_sd` half the width of the 95 % confidence interval as `*_ci`.

        For one more version, some values are also written under their keys of version 0.1: see
        `RENAMED_KEYS`.
        """
        content: dict[str, Json] = asdict(self)
        for name in [name for name in content if name.endswith("_sd")]:
            half_width = ci_half_width(getattr(self, name), self.seeds)
            content[f"{name.removesuffix('_sd')}_ci"] = half_width
        return content | {old: content[new] for old, new in RENAMED_KEYS.items()}


def average_runs_over_seeds(runs: StudyRuns) -> list[StudyCell]:
    """Average the finished runs over seeds: one cell per arm and depth, in order of the runs."""
    groups: dict[tuple[str, int], list[FinishedRun]] = {}
    for run in runs.finished:
        groups.setdefault((run.arm, run.depth), []).append(run)
    return [average_cell_runs(group) for group in groups.values()]


def average_cell_runs(cell_runs: list[FinishedRun]) -> StudyCell:
    """Average the runs that differ in their seed and their fold only."""
    first_run = cell_runs[0]
    runs_by_seed: dict[int, list[FinishedRun]] = {}
    for run in cell_runs:
        runs_by_seed.setdefault(run.seed, []).append(run)
    results = [average_results_over_folds(runs) for runs in runs_by_seed.values()]
    train, test = (
        [getattr(result, f"{split}_error") for result in results] for split in ("train", "test")
    )
    dev = all_known_or_empty([result.dev_error for result in results])
    reestimated = all_known_or_empty([result.train_error_reestimated for result in results])
    train_losses = all_known_or_empty([result.train_loss for result in results])
    gaps = [after - before for after, before in zip(test, reestimated or train, strict=True)]
    generalisation_gaps = [after - before for after, before in zip(test, train, strict=True)]
    learned_steps = [list(map(find_first_learned_step, runs)) for runs in runs_by_seed.values()]
    steps_to_learn = [
        fmean(
            run.result.steps if step is None else step
            for run, step in zip(runs, steps, strict=True)
        )
        for runs, steps in zip(runs_by_seed.values(), learned_steps, strict=True)
    ]
    fold_errors = list_fold_errors(cell_runs)
    has_metrics = all(run.metric_lines for run in cell_runs)
    return StudyCell(
        arm=first_run.arm,
        family=first_run.family,
        depth=first_run.depth,
        seeds=len(results),
        parameters=first_run.parameters,
        train_error=fmean(train),
        train_error_sd=sample_sd_or_none(train),
        train_error_reestimated=mean_or_none(reestimated),
        train_error_reestimated_sd=sample_sd_or_none(reestimated),
        train_loss=mean_or_none(train_losses),
        train_loss_sd=sample_sd_or_none(train_losses),
        dev_error=mean_or_none(dev),
        dev_error_sd=sample_sd_or_none(dev),
        test_error=fmean(test),
        test_error_sd=sample_sd_or_none(test),
        gap=fmean(gaps),
        gap_sd=sample_sd_or_none(gaps),
        generalisation_gap=fmean(generalisation_gaps),
        generalisation_gap_sd=sample_sd_or_none(generalisation_gaps),
        learned_seeds=sum(None not in steps for steps in learned_steps) if has_metrics else None,
        first_learned_step=fmean(steps_to_learn) if has_metrics else None,
        first_learned_step_sd=sample_sd_or_none(steps_to_learn) if has_metrics else None,
        measured_every=int(first_run.metric_lines[0]["step"] or 0) if has_metrics else None,
        steps=first_run.result.steps,
        seconds=fmean(result.seconds for result in results),
        folds=len(fold_errors) or None,
        fold_error=mean_or_none(fold_errors),
        fold_error_se=compute_standard_error(fold_errors),
    )


def average_results_over_folds(runs: Sequence[FinishedRun]) -> RunResult:
    """Average the results of one seed over the folds; without folds, return the only result."""
    results = [run.result for run in runs]
    if len(results) == 1:
        return results[0]
    reestimated = all_known_or_empty([result.train_error_reestimated for result in results])
    return replace(
        results[0],
        seconds=fmean(result.seconds for result in results),
        train_error=fmean(result.train_error for result in results),
        dev_error=mean_or_none(all_known_or_empty([result.dev_error for result in results])),
        test_error=fmean(result.test_error for result in results),
        train_error_reestimated=mean_or_none(reestimated),
        train_loss=mean_or_none(all_known_or_empty([result.train_loss for result in results])),
    )


def list_fold_errors(cell_runs: Sequence[FinishedRun]) -> list[float]:
    """List the error on each fold that was held out, as a mean over seeds; [] without folds."""
    errors: dict[int, list[float]] = {}
    for run in cell_runs:
        if run.fold is not None and run.result.dev_error is not None:
            errors.setdefault(run.fold.number, []).append(run.result.dev_error)
    return [fmean(errors[number]) for number in sorted(errors)]


def compute_standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, as of independent values; None for fewer than two."""
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else None


def find_first_learned_step(run: FinishedRun) -> int | None:
    """Find the first measured step at which the run has started learning; None if it never does."""
    learned_below = compute_learned_error(run.num_classes)
    for row in run.metric_lines:
        error, step = row.get("train_error"), row.get("step")
        if error is not None and step is not None and error < learned_below:
            return int(step)
    return None


def compute_learned_error(num_classes: int) -> float:
    """Compute the training error in [0, 1] below which a run counts as having started learning."""
    return LEARNED_CHANCE_SHARE * (1 - 1 / num_classes)


def all_known_or_empty(values: list[float | None]) -> list[float]:
    """Return the values, or an empty list if one of them is None.

    A mean over some of a cell's seeds would not be comparable with the cell's other means.
    """
    known_values = [value for value in values if value is not None]
    return known_values if len(known_values) == len(values) else []


def mean_or_none(values: Sequence[float]) -> float | None:
    """Return the mean of the values; None if there are no values."""
    return fmean(values) if values else None


def sample_sd_or_none(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (divisor n - 1); None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def spread_half_width(sd: float | None, num_seeds: int) -> float | None:
    """Return half the width of the spread around a mean: of two seeds their range, of more one sd.

    A confidence interval of two values is often wider than the scale.  None if `sd` is None.
    """
    return sd / sqrt(2) if sd is not None and num_seeds == 2 else sd


def ci_half_width(sd: float | None, num_seeds: int) -> float | None:
    """Return half of a mean's 95 % confidence interval (Student's t); None if `sd` is None."""
    if sd is None:
        return None
    from scipy.stats import t  # slow to import, and not needed for a single seed

    return float(t.ppf((1 + CONFIDENCE_LEVEL) / 2, num_seeds - 1)) * sd / sqrt(num_seeds)
