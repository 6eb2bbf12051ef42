"""How a study was measured, in words: data, arms, training, machine, versions, and what its errors are."""

from collections.abc import Sequence
from pathlib import Path

from residua.config.dataset import DATASETS
from residua.config.recipe import (
    AdamW,
    Augmentation,
    Muon,
    OneCycle,
    Optimiser,
    Recipe,
    RmsProp,
    Sgd,
)
from residua.config.serialize import Json, from_json
from residua.errors import ResiduaError
from residua.report.runs import FinishedRun, StudyRuns
from residua.report.significance import capitalize_first, join_with_and

VERDICT_RULE = (
    "A training error that rises with depth is a failure to optimise, and so is a start that gets slower with depth; a training "
    "error that does not, beside a larger gap to the test error, is over-fitting. Both can be true."
)


def describe_method(study_runs: StudyRuns) -> dict[str, str]:
    """Each part's words; empty where there is nothing to say."""
    finished_runs = study_runs.finished
    descriptions = {
        "Data": describe_run_dataset(finished_runs[0]),
        "Compared": describe_labelled_arms(study_runs),
        "Training": describe_training_recipe(study_runs),
    }
    machines = dict.fromkeys(describe_recorded_machine(run.environment) for run in finished_runs)
    versions = dict.fromkeys(describe_recorded_versions(run.environment) for run in finished_runs)
    descriptions |= {
        "Machine": "; ".join(filter(None, machines)),
        "Versions": "; ".join(filter(None, versions)),
    }
    return descriptions | {
        "Errors": describe_error_measurement(finished_runs),
        "Rule": VERDICT_RULE if len({run.depth for run in finished_runs}) > 1 else "",
    }


def describe_run_dataset(run: FinishedRun) -> str:
    text = f"{capitalize_first(format_dataset_name(run.dataset))}, {run.num_classes} classes"
    if dataset := DATASETS.get(run.dataset):
        channels, height, width = dataset.input
        text += f", images of {height} × {width} pixels in {channels} channel{'s' if channels > 1 else ''}"
        text += f"; {dataset.num_dev_images:,} training images are held out as the dev split"
    if isinstance(skipped := run.environment.get("left_out"), list):
        text += f"; {len(skipped):,} file{'s' * (len(skipped) != 1)} or classes of it could not be used as they are: run.json names them"
    return f"{text}."


def format_dataset_name(dataset: str) -> str:
    """A data set's name: of a folder of photographs without the way there."""
    return dataset if dataset in DATASETS else Path(dataset).name


def describe_labelled_arms(study_runs: StudyRuns) -> str:
    """What labels stand for; families need no explanation."""
    arms = study_runs.study.arms if study_runs.study else ()
    finished_arms = {run.arm for run in study_runs.finished}
    arm_texts = [
        f"{arm.label}: {', '.join([arm.family, *arm.changes])}"
        for arm in arms
        if arm.label and arm.title in finished_arms
    ]
    return "; ".join(arm_texts) + "." if arm_texts else ""


def describe_error_measurement(runs: Sequence[FinishedRun]) -> str:
    text = (
        "The share of images whose most probable class is wrong. Those of the table are measured once, after the last step, "
        "without augmentation; nothing was chosen by the test images."
    )
    recalibrated_count = sum(run.result.train_error_reestimated is not None for run in runs)
    if not recalibrated_count:
        return text
    which_runs = (
        ""
        if recalibrated_count == len(runs)
        else f" of {recalibrated_count} of the {len(runs)} runs"
    )
    return (
        f"{text} For the training error{which_runs}, BN's statistics are re-estimated by the final weights over up to 5,000 training "
        "images: running averages lag behind, in the deepest nets by much."
    )


def describe_training_recipe(study_runs: StudyRuns) -> str:
    """The recipe that the arms have in common; what an arm changes in it is said with the arm."""
    finished_runs = study_runs.finished
    first_run = finished_runs[0]
    steps = join_with_and([f"{n:,}" for n in sorted({run.result.steps for run in finished_runs})])
    try:
        recipe = (
            study_runs.study.recipe if study_runs.study else from_json(Recipe, first_run.recipe)
        )
    except ResiduaError:  # written by another version
        return f"Recipe {first_run.recipe.get('name', 'without a name')}, {steps} steps."
    schedule, bn_splits, smoothing = recipe.schedule, recipe.bn_splits, recipe.smoothing
    text = f"Recipe {recipe.name}: {steps} steps"
    text += f" ({recipe.epochs:g} epochs)" if recipe.epochs else ""
    text += f" of {recipe.batch_size} images; {describe_optimiser(recipe.optimiser)}; "
    if isinstance(schedule, OneCycle):
        text += f"the learning rate rises to {schedule.lr:g} over the first {100 * schedule.rise:g} % of steps, then falls along a cosine; "
    else:
        drop_points = join_with_and([f"{100 * share:g} %" for share in schedule.at])
        text += f"the learning rate is {schedule.lr:g}" + (
            f", times {schedule.factor:g} after {drop_points} of steps; " if schedule.at else "; "
        )
    if recipe.warmup and any(run.depth >= recipe.warmup.from_depth for run in finished_runs):
        warmup = recipe.warmup
        text += f"{warmup.lr:g} for the first {warmup.steps:,} steps from {warmup.from_depth} layers on; "
    text += f"labels are smoothed by {smoothing:g}; " if smoothing else ""
    text += f"BN takes its statistics over 1/{bn_splits} of a batch; " if bn_splits > 1 else ""
    dataset = DATASETS.get(first_run.dataset)
    text += "classes are shown equally often; " if recipe.balance else ""
    text += "all below the last layer is held still; " if recipe.freeze else ""
    text += (
        f"all below the last layer is trained at {recipe.body_lr:g} of that rate; "
        if recipe.body_lr != 1
        else ""
    )
    return f"{text}{describe_augmentation(recipe.augment, dataset is None or dataset.flip_keeps_class)}."


def describe_augmentation(augment: Augmentation, flips_allowed: bool) -> str:
    """What is done to images, of a data set whose classes a mirror does or does not change."""
    text = f"images are shifted by up to {augment.pad} pixel{'s' if augment.pad != 1 else ''}"
    if augment.area < 1:
        text = f"images are parts of {100 * augment.area:g} % or more of a photograph, brought to one size"
    text += ", mirrored at random" if augment.flip and flips_allowed else ""
    text += f", and a square of {augment.cut} pixels is cut out" if augment.cut else ""
    text += (
        f"; brightness, contrast and saturation change by up to {100 * augment.colour:g} %"
        if augment.colour
        else ""
    )
    text += (
        "; each is changed in one of fourteen ways, by one of 31 strengths (TrivialAugment)"
        if augment.trivial
        else ""
    )
    mixing_texts = [
        f"{100 * share:g} % {how}"
        for share, how in ((augment.mixup, "blended"), (augment.cutmix, "boxes"))
        if share
    ]
    return text + (
        f"; samples are mixed with others: {' and '.join(mixing_texts)}" if mixing_texts else ""
    )


def describe_optimiser(optimiser: Optimiser) -> str:
    decay_text = f"weight decay {optimiser.weight_decay:g}"
    match optimiser:
        case AdamW(beta1, beta2):
            return f"AdamW with betas {beta1:g} and {beta2:g} and {decay_text}"
        case RmsProp(smoothing, momentum):
            return f"RMSprop with smoothing {smoothing:g}, momentum {momentum:g} and {decay_text}"
        case Muon(momentum):
            return f"Muon with momentum {momentum:g} and {decay_text} for the weights of the units"
        case Sgd(momentum):
            nesterov = "Nesterov's " if optimiser.nesterov else ""
            return (
                f"SGD with {nesterov}momentum {momentum:g} and {decay_text}"
                if momentum
                else f"SGD without momentum, {decay_text}"
            )


def describe_recorded_machine(environment: dict[str, Json]) -> str:
    threads = environment.get("threads")
    machine_facts = [
        environment.get("device"),
        threads and f"{threads} thread{'s' if threads != 1 else ''}",
        environment.get("precision"),
    ]
    return ", ".join(str(word) for word in machine_facts if word)


def describe_recorded_versions(environment: dict[str, Json]) -> str:
    return ", ".join(
        f"{part} {environment[part]}"
        for part in ("residua", "torch", "python")
        if part in environment
    )
