"""The results of a study with folds: the error on held-out images, and what its spread can say.

Every training image is held out once, so that the mean over folds is an error on images that the
networks were not trained on.  The networks of two folds train on each other's held-out images, and
their errors depend on each other: no unbiased estimate of the variance of the mean exists (Bengio &
Grandvalet 2004), so that the standard error over folds is a rough one.  Two networks are compared
on the same folds, by a t-test whose variance is multiplied by 1 + k n_test / n_train (Nadeau &
Bengio 2003, Eq. 6), which is 1 + k / (k - 1) for k folds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from residua.config.serialize import Json
from residua.report.format import (
    NO_VALUE,
    capitalize_first,
    format_percent,
    format_percent_number,
    format_percent_number_with_sd,
    format_percent_with_sd,
    format_points,
    join_with_and,
)
from residua.report.recorded_run import FinishedRun
from residua.report.significance import MIN_DIFFERENCE, SIGNIFICANCE_LEVEL, format_arm_name
from residua.report.tables import StudyCell

FOLD_CAVEAT = (
    "Cross-validation: the nets of different folds train on each other's held-out images, so that "
    "the standard error over folds is a rough measure, and is often too small (Bengio & Grandvalet "
    "2004). The test images are in no fold."
)

FOLD_TEST = (
    "Cross-validation: a net counts as worse than the best one if a t-test of their differences on "
    "the same folds is significant at the 5 % level divided by the number of other nets; its "
    "variance is corrected for that (Nadeau & Bengio 2003)."
)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The error of one network on one held-out fold, as a mean over seeds."""

    arm: str
    depth: int
    fold: int  # from 1
    folds: int
    seeds: int
    images: int | None  # that were held out
    error: float


class FoldTable(NamedTuple):
    """The table of the page: a row per network, with the mean over folds and each fold's error."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def list_fold_results(runs: Sequence[FinishedRun]) -> list[FoldResult]:
    """List the error of each network on each fold, in the order of the runs; [] without folds."""
    groups: dict[tuple[str, int, int], list[FinishedRun]] = {}
    for run in runs:
        if run.fold is not None:
            groups.setdefault((run.arm, run.depth, run.fold.number), []).append(run)
    return [
        FoldResult(
            arm,
            depth,
            number,
            group[0].fold.count if group[0].fold else 0,
            len(group),
            group[0].result.dev_images,
            fmean(errors),
        )
        for (arm, depth, number), group in groups.items()
        if (errors := [e for run in group if (e := run.result.dev_error) is not None])
    ]


def fold_results_to_json(runs: Sequence[FinishedRun]) -> dict[str, Json]:
    """Return the results by fold and the caveat for `results.json`; {} without folds."""
    results = list_fold_results(runs)
    if not results:
        return {}
    return {"folds": [dict(asdict(result)) for result in results], "folds_note": FOLD_CAVEAT}


def find_best_folded_cell(cells: Sequence[StudyCell]) -> StudyCell | None:
    """Find the network with the lowest error on held-out folds; None without folds."""
    folded = [cell for cell in cells if cell.fold_error is not None]
    return min(folded, key=get_fold_error, default=None)


def get_fold_error(cell: StudyCell) -> float:
    """Return the mean error on held-out folds; 1 if there is none."""
    return 1.0 if cell.fold_error is None else cell.fold_error


def describe_best_fold_error(best: StudyCell, cell_count: int) -> tuple[str, str]:
    """Return the lowest error on held-out folds, and a text that says what it is."""
    suffix = f", the lowest of {cell_count} nets" if cell_count > 1 else ""
    return format_percent(get_fold_error(best)), (
        f"error on held-out images of the {format_arm_name(best.arm)} net with {best.depth:,} "
        f"layers{suffix}{describe_standard_error(best)}"
    )


def describe_standard_error(cell: StudyCell) -> str:
    """Describe the standard error over folds, as the end of a sentence; "" for a single fold."""
    if cell.fold_error_se is None:
        return ""
    return f"; standard error over {cell.folds} folds {format_points(cell.fold_error_se)}"


def describe_cross_validation(cells: Sequence[StudyCell], runs: Sequence[FinishedRun]) -> list[str]:
    """Describe the errors on held-out folds: the answer, then its caveats; [] without folds.

    The network with the lowest error is compared with each of the others.
    """
    best = find_best_folded_cell(cells)
    if best is None:
        return []
    folds = max(result.folds for result in list_fold_results(runs))
    error = format_percent_with_sd(get_fold_error(best), best.fold_error_se)
    verb = "does best, with" if len(cells) > 1 else "gets"
    answer = (
        f"In {folds}-fold cross-validation, the {format_arm_name(best.arm)} net with "
        f"{best.depth:,} layers {verb} {error} error on held-out images"
        f"{' (± standard error over folds)' if best.fold_error_se is not None else ''}."
    )
    findings = [" ".join([answer, *compare_with_best(best, cells, runs)])]
    unfinished = [cell for cell in cells if cell.folds != folds]
    if unfinished:
        findings.append(
            f"Cross-validation: {len(unfinished)} of {len(cells)} nets have not finished all "
            f"{folds} folds, and their means are over those that they have."
        )
    if len(cells) > 1:
        findings.append(FOLD_TEST)
    return [*findings, FOLD_CAVEAT]


def compare_with_best(
    best: StudyCell, cells: Sequence[StudyCell], runs: Sequence[FinishedRun]
) -> list[str]:
    """Write a sentence on the networks that do worse than the best one, and on those that may not.

    They are compared on the folds that both have.
    """
    errors: dict[tuple[str, int], dict[int, float]] = {}
    for result in list_fold_results(runs):
        errors.setdefault((result.arm, result.depth), {})[result.fold] = result.error
    others = [cell for cell in cells if cell is not best]
    worse: list[str] = []
    unclear: list[str] = []
    for cell in others:
        best_errors = errors[best.arm, best.depth]
        own_errors = errors.get((cell.arm, cell.depth), {})
        differences = [own_errors[n] - best_errors[n] for n in best_errors if n in own_errors]
        is_worse = differ_by_folds(differences, SIGNIFICANCE_LEVEL / len(others))
        (worse if is_worse else unclear).append(
            f"{format_arm_name(cell.arm)} with {cell.depth:,} layers "
            f"({format_percent(get_fold_error(cell))})"
        )
    sentences = []
    if worse:
        sentences.append(f"Worse: {join_with_and(worse)}.")
    if unclear:
        sentences.append(f"Within the spread over folds: {join_with_and(unclear)}.")
    return sentences


def differ_by_folds(differences: Sequence[float], level: float) -> bool:
    """Return whether the differences of two networks on the same folds are significant.

    The t-test is that of Nadeau & Bengio (2003): the variance of the mean over k folds is
    (1 / k + 1 / (k - 1)) times that of the differences.  Differences below 0.1 points do not count.
    """
    count = len(differences)
    if count < 2:
        return False
    from scipy.stats import t  # slow to import, and not needed without folds

    deviation = stdev(differences) * sqrt(1 / count + 1 / (count - 1))
    threshold = float(t.ppf(1 - level / 2, count - 1)) * deviation
    return abs(fmean(differences)) >= max(threshold, MIN_DIFFERENCE)


def make_fold_table(cells: Sequence[StudyCell], runs: Sequence[FinishedRun]) -> FoldTable | None:
    """Make the page's table of the errors on held-out folds, in percent; None without folds."""
    results = list_fold_results(runs)
    if not results:
        return None
    errors = {(result.arm, result.depth, result.fold): result.error for result in results}
    numbers = range(1, max(result.folds for result in results) + 1)
    return FoldTable(
        ("net", "layers", "mean ± SE, %", *(f"fold {number}" for number in numbers)),
        [
            (
                capitalize_first(format_arm_name(cell.arm)),
                f"{cell.depth:,}",
                format_percent_number_with_sd(get_fold_error(cell), cell.fold_error_se)
                if cell.fold_error is not None
                else NO_VALUE,
                *(format_percent_number(errors.get((cell.arm, cell.depth, n))) for n in numbers),
            )
            for cell in cells
        ],
    )
