"""Text on how a study was measured: data, arms, training, machine, versions and errors."""

from collections.abc import Sequence
from pathlib import Path

from residua.config.dataset import DATASETS
from residua.config.image_views import ImageViews
from residua.config.recipe import Recipe
from residua.config.schedules import LinearDecay, OneCycle, Schedule
from residua.config.serialize import Json, from_json
from residua.errors import ResiduaError
from residua.report.augmentation_text import describe_augmentation
from residua.report.format import (
    capitalize_first,
    format_counted_noun,
    format_shortest_percent,
    join_with_and,
)
from residua.report.recorded_run import FinishedRun
from residua.report.runs import StudyRuns

ERROR_DEFINITION = (
    "An error is the share of images whose most probable class is wrong. The table's errors are "
    "measured once, after the last step, without augmentation. The test images were used for no "
    "choice."
)
VERDICT_RULE = (
    "A training error that rises with depth is a failure to optimise, and so is learning that "
    "starts later with depth. A larger gap between test and training error, without a rise of "
    "training error, is over-fitting. Both can be true."
)


def describe_method(study_runs: StudyRuns) -> dict[str, str]:
    """Return the parts of the method section, as {heading: text}; some texts may be empty."""
    finished_runs = study_runs.finished
    machines = dict.fromkeys(describe_recorded_machine(run.environment) for run in finished_runs)
    versions = dict.fromkeys(describe_recorded_versions(run.environment) for run in finished_runs)
    has_several_depths = len({run.depth for run in finished_runs}) > 1
    return {
        "Data": describe_run_dataset(finished_runs[0]),
        "Start": describe_initial_weights(finished_runs),
        "Compared": describe_labelled_arms(study_runs),
        "Training": describe_common_training_recipe(study_runs),
        "Machine": "; ".join(filter(None, machines)),
        "Versions": "; ".join(filter(None, versions)),
        "Errors": describe_error_measurement(finished_runs),
        "Rule": VERDICT_RULE if has_several_depths else "",
    }


def describe_run_dataset(run: FinishedRun) -> str:
    """Write a sentence on a run's data set: its classes, images, and number of skipped files."""
    text = f"{capitalize_first(format_dataset_name(run.dataset))}, {run.num_classes} classes"
    if dataset := DATASETS.get(run.dataset):
        channels, height, width = dataset.input
        text += (
            f", images of {height} × {width} pixels in {format_counted_noun(channels, 'channel')}"
        )
        if run.fold is None and run.recipe.get("dev") is False:
            text += "; no training images are held out"
        elif run.fold is None:
            text += f"; {dataset.num_dev_images:,} training images are held out as the dev split"
    if run.fold is not None:
        text += (
            f"; each of {run.fold.count} folds of the training images is held out once: images "
            "are dealt to folds by their content, class by class, and copies and groups stay "
            "together"
        )
    if isinstance(skipped := run.environment.get("left_out"), list):
        problem_count = format_counted_noun(len(skipped), "file or class", "files or classes")
        text += f"; {problem_count} could not be used as they are and are listed in run.json"
    return f"{text}."


def describe_initial_weights(runs: Sequence[FinishedRun]) -> str:
    """Name the weights that the runs started from, with their sum; "" if they recorded none."""
    origins = [run.environment.get("weights_from") for run in runs]
    texts = dict.fromkeys(
        f"the weights {origin.get('name')} (SHA-256 {str(origin.get('sha256'))[:12]}…)"
        for origin in origins
        if isinstance(origin, dict)
    )
    return f"From {join_with_and(list(texts))}." if texts else ""


def format_dataset_name(dataset: str) -> str:
    """Format the name of a data set; for a folder of photos, the last component of its path."""
    return dataset if dataset in DATASETS else Path(dataset).name


def describe_labelled_arms(study_runs: StudyRuns) -> str:
    """Describe the network family and recipe changes of each arm that has a label.

    An arm without a label is named after its family and is left out.
    """
    arms = study_runs.study.arms if study_runs.study else ()
    finished_arms = {run.arm for run in study_runs.finished}
    arm_texts = [
        f"{arm.label}: {', '.join([arm.family, *arm.changes])}"
        for arm in arms
        if arm.label and arm.title in finished_arms
    ]
    return "; ".join(arm_texts) + "." if arm_texts else ""


def describe_error_measurement(runs: Sequence[FinishedRun]) -> str:
    """Describe what an error is and how the training error was measured."""
    text = ERROR_DEFINITION
    reestimated_count = sum(run.result.train_error_reestimated is not None for run in runs)
    if not reestimated_count:
        return text
    which_runs = ""
    if reestimated_count < len(runs):
        which_runs = f" of {reestimated_count} of the {len(runs)} runs"
    return (
        f"{text} For the training error{which_runs}, the BN statistics are re-estimated with the "
        "final weights over up to 5,000 training images: running averages lag behind, most of all "
        "in the deepest nets."
    )


VIEWS_TEXTS: dict[ImageViews, str] = {
    "none": "",
    "plain": "",
    "mirror": "the test error is that of probabilities averaged over each image and its mirror "
    "image",
    "10": "the test error is that of probabilities averaged over ten crops of each image, its "
    "corners and its center with their mirror images",
    "six": "the test error is that of scores averaged over six views of each image",
}


def describe_common_training_recipe(study_runs: StudyRuns) -> str:
    """Write a sentence on the study's recipe, without the changes that single arms make to it."""
    finished_runs = study_runs.finished
    first_run = finished_runs[0]
    steps = join_with_and([f"{n:,}" for n in sorted({run.result.steps for run in finished_runs})])
    try:
        study = study_runs.study
        recipe = study.recipe if study else from_json(Recipe, first_run.recipe)
    except ResiduaError:  # written by another version, in a form that this one cannot read
        return f"Recipe {first_run.recipe.get('name', 'without a name')}, {steps} steps."
    epochs = f" ({recipe.epochs:g} epochs)" if recipe.epochs else ""
    dataset = DATASETS.get(first_run.dataset)
    flips_allowed = dataset is None or dataset.flip_keeps_class
    parts = [
        f"Recipe {recipe.name}: {steps} steps{epochs} of {recipe.batch_size} images",
        recipe.optimiser.description,
        describe_schedule(recipe.schedule),
        *list_nondefault_recipe_settings(recipe, max_depth=max(run.depth for run in finished_runs)),
        describe_augmentation(recipe.augment, flips_allowed),
    ]
    return "; ".join(parts) + "."


def describe_schedule(schedule: Schedule) -> str:
    """Describe the learning rate over the steps of a run."""
    if isinstance(schedule, OneCycle):
        return (
            f"the learning rate rises to {schedule.lr:g} over the first "
            f"{format_shortest_percent(schedule.rise)} of steps, then falls along a cosine"
        )
    if isinstance(schedule, LinearDecay):
        rise = f"rises to {schedule.lr:g} over the first {format_shortest_percent(schedule.rise)}"
        start = f"{rise} of steps" if schedule.rise else f"starts at {schedule.lr:g}"
        return f"the learning rate {start} and falls linearly to {schedule.lr * schedule.floor:g}"
    text = f"the learning rate is {schedule.lr:g}"
    if schedule.at:
        drop_points = join_with_and([format_shortest_percent(share) for share in schedule.at])
        text += f", times {schedule.factor:g} after {drop_points} of steps"
    return text


def list_nondefault_recipe_settings(recipe: Recipe, max_depth: int) -> list[str]:
    """List the settings that differ from plain training, one text each.

    `max_depth` is the depth of the deepest net: warmup is listed only if it applies to that depth.
    """
    settings = []
    warmup = recipe.warmup
    if warmup and max_depth >= warmup.from_depth:
        settings.append(
            f"the learning rate is {warmup.lr:g} for the first {warmup.steps:,} steps "
            f"from {warmup.from_depth} layers on"
        )
    if recipe.smoothing:
        settings.append(f"labels are smoothed by {recipe.smoothing:g}")
    if recipe.bn_splits > 1:
        settings.append(f"BN takes its statistics over 1/{recipe.bn_splits} of a batch")
    if recipe.balance:
        settings.append("all classes are drawn equally often")
    if recipe.freeze:
        settings.append("only the last layer is trained")
    if recipe.body_lr != 1:
        settings.append(
            f"everything below the last layer is trained at {recipe.body_lr:g} of that rate"
        )
    return settings + list_fine_tuning_settings(recipe)


def list_fine_tuning_settings(recipe: Recipe) -> list[str]:
    """List the fields for fine-tuning that differ from plain training, one text each."""
    bn_texts = {
        "train": "",
        "frozen": "BN keeps its running statistics and normalises by them",
        "reestimated": "BN statistics are computed anew over training images after the last step",
    }
    sides = join_with_and([format_shortest_percent(size) for size in recipe.sizes])
    texts = {
        f"the rate is multiplied by {recipe.layer_decay:g} from each stage to the one before it": (
            recipe.layer_decay != 1
        ),
        f"only the last layer is trained in the first {format_shortest_percent(recipe.probe)} of "
        "steps, and the schedule runs once in this phase and once after it": recipe.probe > 0,
        bn_texts[recipe.bn]: recipe.bn != "train",
        f"weights are averaged over steps, with a decay of {recipe.ema:g}": recipe.ema > 0,
        f"gradients longer than {recipe.clip_norm:g} are shortened": recipe.clip_norm > 0,
        f"the stem is trained only in the first {format_shortest_percent(recipe.stem)} of steps, "
        "at a rate that falls linearly to 0": recipe.stem > 0,
        f"each image is in a batch {recipe.repeats} times, augmented differently": (
            recipe.repeats > 1
        ),
        f"the training images have {recipe.train_size} x {recipe.train_size} pixels": (
            recipe.train_size > 0
        ),
        VIEWS_TEXTS[recipe.views]: recipe.views != "none",
        f"the sides of the training images are {sides} of full size, in equal parts of the run": (
            bool(recipe.sizes)
        ),
    }
    return [text for text, applies in texts.items() if applies]


def describe_recorded_machine(environment: dict[str, Json]) -> str:
    """Describe the device, CPU threads and precision, as text; unrecorded values are left out."""
    threads = environment.get("threads")
    thread_text = format_counted_noun(threads, "thread") if isinstance(threads, int) else None
    machine_facts = [environment.get("device"), thread_text, environment.get("precision")]
    return ", ".join(str(fact) for fact in machine_facts if fact)


def describe_recorded_versions(environment: dict[str, Json]) -> str:
    """Describe the versions of residua, torch and Python that were recorded."""
    return ", ".join(
        f"{program} {environment[program]}"
        for program in ("residua", "torch", "python")
        if program in environment
    )
