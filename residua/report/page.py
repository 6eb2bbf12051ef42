"""The page of a study: the answer in words, the figures, the table, and how it was measured, in one self-contained file."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from residua.errors import ResiduaError
from residua.files import write_json, write_text
from residua.report import figures
from residua.report.html import rendered
from residua.report.tables import Cell, Finished, Runs, cells, read
from residua.report.verdict import capital, listed, name, verdict
from residua.spec.dataset import DATASETS
from residua.spec.recipe import AdamW, Augment, Muon, OneCycle, Optimiser, Recipe, RmsProp, Sgd
from residua.spec.text import FORMAT, Json, from_json

PAGE = "report.html"


def results(folder: Path) -> dict[str, Json]:
    """A study or a run in numbers: `cells`, errors in [0, 1]; `verdict`, a finding a line; `page`, its path; `unfinished` runs."""
    return findings(read(folder)) | {"page": str(folder / PAGE)}


def write(folder: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/` of a study or a run from its records alone, and return the page's path.

    Raises RecordError where no run is finished.
    """
    runs = read(folder)
    drawn = draw(runs)
    for label, (wide, _) in drawn.items():
        write_text(folder / "figures" / f"{label}.svg", figures.standalone(wide))
    write_json(folder / "results.json", findings(runs) | {"page": PAGE, "figures": [f"figures/{label}.svg" for label in drawn]})
    write_text(folder / PAGE, page(runs, drawn))
    return folder / PAGE


def findings(runs: Runs) -> dict[str, Json]:
    table = cells(runs)
    first = runs.finished[0]
    return {
        "format": FORMAT,
        "dataset": first.dataset,
        "recipe": str(first.recipe.get("name", "")),
        "verdict": "\n".join(verdict(table, first.classes)),
        "cells": [asdict(cell) for cell in table],
        "unfinished": [asdict(run) for run in runs.unfinished],
    }


def draw(runs: Runs) -> dict[str, tuple[str, str]]:
    """Each figure as SVG, for a desk and for a phone; errors against depth only where there are several."""
    table, classes = cells(runs), runs.finished[0].classes
    drawing: dict[str, Callable[[float], str]] = {}
    if len({cell.depth for cell in table}) > 1:
        drawing["depth"] = lambda width: figures.depth_figure(table, classes, width)
    if any(run.lines for run in runs.finished):
        drawing["curves"] = lambda width: figures.curves_figure(runs.finished, width)
    return {label: (drawn(figures.WIDE), drawn(figures.NARROW)) for label, drawn in drawing.items()}


def page(runs: Runs, drawn: dict[str, tuple[str, str]]) -> str:
    """The page as HTML: style and figures inside, nothing fetched."""
    table, first = cells(runs), runs.finished[0]
    lead, *findings = verdict(table, first.classes)
    inks = figures.inks(len({cell.depth for cell in table}))
    titles = {"depth": "Training and test error against depth", "curves": "Training and dev error over steps"}
    figure = {
        label: [
            figures.inlined(svg, f"{label}-{size}", titles[label], inks) for svg, size in zip(svgs, ("wide", "narrow"), strict=True)
        ]
        for label, svgs in drawn.items()
    }
    return rendered(
        "report.html.j2",
        title="Do deeper networks train?" if len(table) > 1 else f"How well does {first.name} train?",
        subject=subject(table, known_as(first.dataset)),
        lead=unbroken(lead),
        findings=[opened(unbroken(finding), table) for finding in findings],
        families=rows(table),
        spread=any(cell.seeds > 1 for cell in table),
        figures=figure,
        inks=inks,
        measured={part: unbroken(words) for part, words in measured(runs.finished).items()},
        unfinished=[unfinished(run.name, run.seed, run.step) for run in runs.unfinished],
    )


def subject(table: Sequence[Cell], data: str) -> str:
    families = listed([name(family) for family in dict.fromkeys(cell.family for cell in table)])
    depths = listed([str(depth) for depth in sorted({cell.depth for cell in table})])
    return f"{capital(families)} nets of {depths} layers on {data}"


def rows(table: Sequence[Cell]) -> dict[str, list[list[str]]]:
    """For each family its table's rows: depth, training, dev and test error in percent, seeds, parameters, time of a run."""
    families: dict[str, list[list[str]]] = {}
    for cell in table:
        errors = [
            with_spread(cell.train_error, cell.train_error_sd), with_spread(cell.dev_error, cell.dev_error_sd),
            with_spread(cell.test_error, cell.test_error_sd),
        ]  # fmt: skip
        count = f"{cell.parameters:,}" if cell.parameters is not None else "–"
        row = [str(cell.depth), *errors, str(cell.seeds), count, duration(cell.seconds or 0)]
        families.setdefault(capital(name(cell.family)), []).append(row)
    return families


def measured(runs: Sequence[Finished]) -> dict[str, str]:
    """How it was measured, in words: data, recipe, machine, versions."""
    first = runs[0]
    told = {"Data": data_in_words(first), "Training": recipe_in_words(runs)}
    machines = dict.fromkeys(machine_in_words(run.environment) for run in runs)
    versions = dict.fromkeys(versions_in_words(run.environment) for run in runs)
    return told | {"Machine": "; ".join(filter(None, machines)), "Versions": "; ".join(filter(None, versions))}


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


def recipe_in_words(runs: Sequence[Finished]) -> str:
    run = runs[0]
    steps = listed([f"{n:,}" for n in sorted({run.result.steps for run in runs})])
    try:
        recipe = from_json(Recipe, run.recipe)
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


def unfinished(network: str, seed: int, step: int | None) -> str:
    return f"{network}, seed {seed}: " + (f"measured up to step {step:,}" if step is not None else "nothing measured yet")


def with_spread(mean: float, sd: float | None) -> str:
    """A mean in [0, 1], and its sd if any, in percent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def opened(finding: str, table: Sequence[Cell]) -> tuple[str, str]:
    """`Plain: ...` as `Plain` and the rest, where a finding is about one family."""
    for cell in table:
        if finding.startswith(head := f"{capital(name(cell.family))}: "):
            return head[:-2], capital(finding.removeprefix(head))
    return "", finding


def unbroken(sentence: str) -> str:
    """With no line break between a number and its percent sign."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")
