"""Studies of networks: their errors without some units, and families and depths compared."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

from residua.analysis.network_lesions import LesionSampling
from residua.analysis.run_lesion import NetworkInStudy, measure_lesion_study
from residua.api.given_networks import (
    NetworkAndConfig,
    TrainedNetwork,
    get_recorded_training_dataset,
    read_given_network,
    require_own_network,
)
from residua.api.own_errors import name_keywords_in_errors
from residua.config.dataset import Dataset
from residua.config.lesion_results import LesionStudyResult
from residua.config.model import ModelConfig
from residua.config.recipe import Recipe
from residua.config.recipes import resolve_recipe
from residua.config.study import Arm, Study
from residua.console.output import print_data_summary
from residua.console.progress import ProgressBar, StudyProgress
from residua.data.summary import ignore_summary
from residua.data.unseen_images import EvaluatedSplit
from residua.data.user_data import ImagesAndLabels, resolve_evaluation_data
from residua.errors import Interrupted, TrainingError, UsageError
from residua.net.model_folder import check_compatibility
from residua.report.lesion import check_lesion_output_folder, write_lesion_report
from residua.report.study import StudySummary, read_study_summary, write_study_report
from residua.studies.run_study import train_study
from residua.studies.study_data import StudyData, choose_study_data
from residua.training.machine import DeviceChoice, Precision, set_up_machine


@name_keywords_in_errors
def lesion(
    runs: TrainedNetwork | Sequence[TrainedNetwork],
    data: str | ImagesAndLabels | None = None,
    *,
    split: EvaluatedSplit | None = None,
    images: int | None = None,
    draws: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    device: DeviceChoice = "auto",
    data_dir: str | Path | None = None,
    quiet: bool = False,
) -> LesionStudyResult:
    """Measure the error of trained networks after units are deleted or reordered.

    The first of `runs` is a residual network, with which the others are compared.  The images are
    the first `images` of a split of the data set that `data` names, or of (images, labels), which
    count as the test split; or `images` photographs spread over a split of those at the place
    `data`.  The split is by default the test split or, of photographs without splits, all that the
    first network was not trained on.  By default `data` is what the first network was trained on.
    If `out` is given, the report page and `results.json` are written to this folder.

    Raises UsageError if the first network has no shortcuts, or if network and data do not fit.
    """
    if out is not None:
        check_lesion_output_folder(Path(out))
    sampling = LesionSampling(draws, seed)
    given = runs if isinstance(runs, list | tuple) else [runs]
    networks = [
        copy_network_for_lesions(read_given_network(network), number)
        for number, network in enumerate(given, 1)
    ]
    if not networks:
        raise UsageError("no network was given to the lesion study: give at least one")
    first = networks[0].net.plan.network
    if first.unit.shortcut == "none":
        raise UsageError(f"{first.name} has no shortcuts: give a residual network before it")
    folder = None if data_dir is None else Path(data_dir)
    dataset = resolve_lesion_data(data, networks[0].config, folder)
    for network in networks:
        check_compatibility(network.config, dataset, network.net.plan.network.name)
    with ProgressBar("ablation", hidden=quiet) as bar:
        result = measure_lesion_study(
            networks,
            dataset,
            split,
            set_up_machine("fp32", device_choice=device),
            sampling,
            image_count=images,
            data_dir=folder,
            on_progress=bar.update,
        )
    if out is not None:
        write_lesion_report(result, Path(out))
    return result


def copy_network_for_lesions(given: NetworkAndConfig, number: int) -> NetworkInStudy:
    """Copy a network for a lesion study; `number` counts the networks of the study from 1.

    Raises UsageError for a module, which has no config, and for a network without known units.
    """
    net = require_own_network(given.net)
    if given.config is None:
        raise UsageError(
            "a module has no class names and no normalisation: give a run's folder, a model "
            "folder, or the result of residua.load or residua.train"
        )
    source = f"network {number}" if given.folder is None else str(given.folder)
    return NetworkInStudy(deepcopy(net), given.config, source)


def resolve_lesion_data(
    data: str | ImagesAndLabels | None, config: ModelConfig, data_dir: Path | None
) -> Dataset:
    """Return the data set of a lesion study; by default the one that the network was trained on."""
    if data is not None:
        return resolve_evaluation_data(data, config, skip_unknown=True, data_dir=data_dir)
    return get_recorded_training_dataset(config)


@name_keywords_in_errors
def study(
    families: Sequence[str | Arm] = ("plain", "resnet", "preresnet"),
    depths: Sequence[int] = (20, 56, 110),
    *,
    seeds: Sequence[int] = (0, 1),
    data: str = "digits",
    recipe: str | Recipe | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    folds: int = 0,
    size: int | None = None,
    out: str | Path | None = None,
    workers: int = 0,
    precision: Precision = "auto",
    device: DeviceChoice = "auto",
    data_dir: str | Path | None = None,
    quiet: bool = False,
) -> StudySummary:
    """Train every family at every depth with every seed, and compare the networks.

    `data` is the name of a data set, or the path of photographs, cropped to `size` pixels.  With
    `folds`, each network is trained once for every fold of the training images held out.

    If `out` is given, this folder keeps the runs, the report page and `results.json`, and its
    finished runs are not trained again.  Otherwise nothing is kept.  The runs are trained by
    `workers` processes (0: one per core), so a script must call it under
    `if __name__ == "__main__":`.

    Runs that fail are among `summary.runs.unfinished`, and a warning says why the first one did.
    Raises TrainingError if all fail, and UsageError for a study that is impossible.
    """
    chosen = choose_study_data(data, size, device, None if data_dir is None else Path(data_dir))
    chosen_recipe = resolve_recipe(recipe, chosen.recipe).change_duration(steps, epochs)
    described = make_study(chosen, families, depths, seeds, chosen_recipe, folds)
    points = described.points_by_run_name()
    is_kept = bool(out)
    with ExitStack() as stack:
        out = out or stack.enter_context(tempfile.TemporaryDirectory(prefix="residua-study-"))
        bar = stack.enter_context(ProgressBar(hidden=quiet))
        try:
            failures = train_study(
                described,
                Path(out),
                precision=precision,
                device_choice=device,
                data_dir=None if data_dir is None else Path(data_dir),
                workers=workers,
                data=chosen.dataset,
                on_data=ignore_summary if quiet else print_data_summary,
                on_progress=StudyProgress(bar, {name: p.depth for name, p in points.items()}),
            )
        except Interrupted:
            raise Interrupted(describe_stop(out if is_kept else None)) from None
        if len(failures) == len(points):
            raise TrainingError(f"no run finished: {next(iter(failures.values()))}")
        summary = read_study_summary(Path(out))
        if is_kept:
            write_study_report(summary, Path(out))
    warn_of_failed_runs(failures, len(points))
    return summary


def make_study(
    chosen: StudyData,
    families: Sequence[str | Arm],
    depths: Sequence[int],
    seeds: Sequence[int],
    recipe: Recipe,
    folds: int,
) -> Study:
    """Make the study that the arguments of `study` describe."""
    return Study(
        dataset=chosen.name,
        arms=tuple(Arm(f) if isinstance(f, str) else f for f in dict.fromkeys(families)),
        depths=tuple(depths),
        seeds=tuple(seeds),
        recipe=recipe,
        folds=folds,
        size=chosen.size,
    )


def describe_stop(out: str | Path | None) -> str:
    """Say whether a stopped study can be resumed, and how."""
    if out is None:
        return "the study was stopped: nothing was kept, since out is None"
    return f"the study was stopped: to go on, call it again with out={str(out)!r}"


def warn_of_failed_runs(failures: Mapping[str, str], run_count: int) -> None:
    """Warn if some runs of a study failed, with the reason of the first one."""
    if failures:
        name, reason = next(iter(failures.items()))
        warnings.warn(
            f"{len(failures)} of {run_count} runs failed, e.g. {name}: {reason}",
            stacklevel=4,  # at the call of `study`
        )
