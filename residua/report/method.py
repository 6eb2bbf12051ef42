"""How a study was measured, in words: data, arms, training, machine, versions, and what its errors are."""

from collections.abc import Sequence
from pathlib import Path

from residua.errors import ResiduaError
from residua.report.compare import capital, listed
from residua.report.runs import Finished, Runs
from residua.spec.dataset import DATASETS
from residua.spec.recipe import AdamW, Augment, Muon, OneCycle, Optimiser, Recipe, RmsProp, Sgd
from residua.spec.text import Json, from_json

RULE = (
    "A training error that rises with depth is a failure to optimise, and so is a start that gets slower with depth; a training "
    "error that does not, beside a larger gap to the test error, is over-fitting. Both can be true."
)


def measured(study: Runs) -> dict[str, str]:
    """Each part's words; empty where there is nothing to say."""
    runs = study.finished
    told = {"Data": data_in_words(runs[0]), "Compared": arms_in_words(study), "Training": recipe_in_words(study)}
    machines = dict.fromkeys(machine_in_words(run.environment) for run in runs)
    versions = dict.fromkeys(versions_in_words(run.environment) for run in runs)
    told |= {"Machine": "; ".join(filter(None, machines)), "Versions": "; ".join(filter(None, versions))}
    return told | {"Errors": errors_in_words(runs), "Rule": RULE if len({run.depth for run in runs}) > 1 else ""}


def data_in_words(run: Finished) -> str:
    text = f"{capital(known_as(run.dataset))}, {run.classes} classes"
    if data := DATASETS.get(run.dataset):
        channels, height, width = data.input
        text += f", images of {height} × {width} pixels in {channels} channel{'s' if channels > 1 else ''}"
        text += f"; {data.dev:,} training images are held out as the dev split"
    if isinstance(lost := run.environment.get("left_out"), list):
        text += f"; {len(lost):,} file{'s' * (len(lost) != 1)} or classes of it could not be used as they are: run.json names them"
    return f"{text}."


def known_as(dataset: str) -> str:
    """A data set's name: of a folder of photographs without the way there."""
    return dataset if dataset in DATASETS else Path(dataset).name


def arms_in_words(study: Runs) -> str:
    """What labels stand for; families need no explanation."""
    arms = study.study.arms if study.study else ()
    seen = {run.arm for run in study.finished}
    told = [f"{arm.label}: {', '.join([arm.family, *arm.changes])}" for arm in arms if arm.label and arm.title in seen]
    return "; ".join(told) + "." if told else ""


def errors_in_words(runs: Sequence[Finished]) -> str:
    text = (
        "The share of images whose most probable class is wrong. Those of the table are measured once, after the last step, "
        "without augmentation; nothing was chosen by the test images."
    )
    again = sum(run.result.train_error_reestimated is not None for run in runs)
    if not again:
        return text
    whose = "" if again == len(runs) else f" of {again} of the {len(runs)} runs"
    return (
        f"{text} For the training error{whose}, BN's statistics are re-estimated by the final weights over up to 5,000 training "
        "images: running averages lag behind, in the deepest nets by much."
    )


def recipe_in_words(study: Runs) -> str:
    """The recipe that the arms have in common; what an arm changes in it is said with the arm."""
    runs = study.finished
    run = runs[0]
    steps = listed([f"{n:,}" for n in sorted({run.result.steps for run in runs})])
    try:
        recipe = study.study.recipe if study.study else from_json(Recipe, run.recipe)
    except ResiduaError:  # written by another version
        return f"Recipe {run.recipe.get('name', 'without a name')}, {steps} steps."
    rate, parts, smoothing = recipe.schedule, recipe.parts, recipe.smoothing
    text = f"Recipe {recipe.name}: {steps} steps"
    text += f" ({recipe.epochs:g} epochs)" if recipe.epochs else ""
    text += f" of {recipe.batch_size} images; {optimiser_in_words(recipe.optimiser)}; "
    if isinstance(rate, OneCycle):
        text += f"the learning rate rises to {rate.lr:g} over the first {100 * rate.rise:g} % of steps, then falls along a cosine; "
    else:
        at = listed([f"{100 * share:g} %" for share in rate.at])
        text += f"the learning rate is {rate.lr:g}" + (f", times {rate.factor:g} after {at} of steps; " if rate.at else "; ")
    if recipe.warmup and any(run.depth >= recipe.warmup.from_depth for run in runs):
        warmup = recipe.warmup
        text += f"{warmup.lr:g} for the first {warmup.steps:,} steps from {warmup.from_depth} layers on; "
    text += f"labels are smoothed by {smoothing:g}; " if smoothing else ""
    text += f"BN takes its statistics over 1/{parts} of a batch; " if parts > 1 else ""
    data = DATASETS.get(run.dataset)
    text += "classes are shown equally often; " if recipe.balance else ""
    text += "all below the last layer is held still; " if recipe.freeze else ""
    text += f"all below the last layer is trained at {recipe.body_lr:g} of that rate; " if recipe.body_lr != 1 else ""
    return f"{text}{augment_in_words(recipe.augment, data is None or data.flips)}."


def augment_in_words(augment: Augment, flips: bool) -> str:
    """What is done to images, of a data set whose classes a mirror does or does not change."""
    text = f"images are shifted by up to {augment.pad} pixel{'s' if augment.pad != 1 else ''}"
    if augment.area < 1:
        text = f"images are parts of {100 * augment.area:g} % or more of a photograph, brought to one size"
    text += ", mirrored at random" if augment.flip and flips else ""
    text += f", and a square of {augment.cut} pixels is cut out" if augment.cut else ""
    text += f"; brightness, contrast and saturation change by up to {100 * augment.colour:g} %" if augment.colour else ""
    text += "; each is changed in one of fourteen ways, by one of 31 strengths (TrivialAugment)" if augment.trivial else ""
    mixed = [f"{100 * share:g} % {how}" for share, how in ((augment.mixup, "blended"), (augment.cutmix, "boxes")) if share]
    return text + (f"; samples are mixed with others: {' and '.join(mixed)}" if mixed else "")


def optimiser_in_words(optimiser: Optimiser) -> str:
    decay = f"weight decay {optimiser.weight_decay:g}"
    match optimiser:
        case AdamW(beta1, beta2):
            return f"AdamW with betas {beta1:g} and {beta2:g} and {decay}"
        case RmsProp(smoothing, momentum):
            return f"RMSprop with smoothing {smoothing:g}, momentum {momentum:g} and {decay}"
        case Muon(momentum):
            return f"Muon with momentum {momentum:g} and {decay} for the weights of the units"
        case Sgd(momentum):
            nesterov = "Nesterov's " if optimiser.nesterov else ""
            return f"SGD with {nesterov}momentum {momentum:g} and {decay}" if momentum else f"SGD without momentum, {decay}"


def machine_in_words(environment: dict[str, Json]) -> str:
    threads = environment.get("threads")
    told = [environment.get("device"), threads and f"{threads} thread{'s' if threads != 1 else ''}", environment.get("precision")]
    return ", ".join(str(word) for word in told if word)


def versions_in_words(environment: dict[str, Json]) -> str:
    return ", ".join(f"{part} {environment[part]}" for part in ("residua", "torch", "python") if part in environment)
