"""Lesion studies: how often a trained net is wrong without some of its units, and with units in each other's places.

After Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow networks", sections 4 and 5.
Nets are in evaluation mode and in fp32: BN keeps the running statistics of the whole net.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

from residua.data.augment import normalise
from residua.data.read import Images, Split, read
from residua.errors import UsageError
from residua.net.build import ResidualNetwork
from residua.net.folder import network_from
from residua.spec.dataset import Dataset
from residua.spec.lesion import Deleted, Lesions, Net, Swapped, Thinned
from residua.spec.memory import EVALUATED, FLOAT
from residua.spec.plan import Plan
from residua.study.anatomy import anatomy, at_rest
from residua.study.paths import paths_to_take, shares
from residua.study.wound import Wound, deleted, errors, swappings, thinnings
from residua.train.evaluate import checked_for, model_folder
from residua.train.machine import Machine

KEPT_BYTES = 2**29  # for the inputs of all units, from which every lesion of a batch goes on
GRADIENT_IMAGES = 64  # at most, for the gradient by path length
PATHS = 4  # of each length for each draw: they cost less than lesions
Listener = Callable[[str, int, int], None]  # a net, how much of it is done, of how much
Preprocessing = tuple[tuple[float, ...], tuple[float, ...]]  # means and stds of the channels
Errors = dict[Wound, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """What is drawn at random: `draws` choices for each number of deletions and of swaps, and for each length of path."""

    draws: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"{self.draws} draws are no sample: give at least 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed {self.seed} is impossible: give a whole number from 0 to {2**32 - 1}")


def study(
    folders: Sequence[Path], data: Dataset, split: Split, machine: Machine, choice: Choice,
    *, images: int | None = None, data_dir: Path | None = None, tell: Listener,
) -> Lesions:  # fmt: skip
    """Lesions of the nets of runs' or model folders, all on the same first `images` of a split.

    Raises UsageError for a first net without shortcuts, for a net of other classes or shapes, for a folder that holds no net of
    units; RecordError, DataError.
    """
    if images is not None and images < 1:
        raise UsageError(f"{images} images are no sample: give at least 1")
    models = [model_folder(folder) for folder in folders]
    configs = [checked_for(data, folder) for folder in models]
    nets = [network_from(folder) for folder in models]
    if nets[0].plan.network.unit.shortcut == "none":
        name = nets[0].plan.network.name
        raise UsageError(f"{name} has no shortcuts to keep: give a residual net first, and this one by --beside {folders[0]}")
    sample = read(data, split, data_dir)[slice(0, images)].to(machine.device)
    names = labels([net.plan.network.name for net in nets], folders)
    found = [
        measured(machine.place(net), label, sample, (config.mean, config.std), choice, tell)
        for net, label, config in zip(nets, names, configs, strict=True)
    ]
    return Lesions(
        dataset=data.name, split=split, classes=len(data.classes), images=len(sample),
        draws=choice.draws, seed=choice.seed, nets=tuple(found),
    )  # fmt: skip


def labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """What to call each net: its name, with its folder's where others are called so too."""
    return [f"{name} ({folder})" if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)]


def measured(net: ResidualNetwork, label: str, images: Images, preprocessing: Preprocessing, choice: Choice, tell: Listener) -> Net:
    """Every lesion of one net, which is left as it was."""
    parts, batch = anatomy(net), batch_size(net.plan)
    if not parts.deletable:
        raise UsageError(f"no unit of {label} can be deleted: each changes the shape, and it has no shortcuts; give a deeper net")
    units = len(parts.units)
    single = {i: deleted(units, i) for i in parts.deletable}
    thin = thinnings(parts, choice.draws, choice.seed)
    swap = swappings(parts, choice.draws, choice.seed)
    wounds = list(dict.fromkeys([deleted(units), *single.values(), *chain(*thin.values(), *swap.values())]))
    total = -(-len(images) // batch) * len(wounds) + (paths_to_take(units, PATHS * choice.draws) if parts.residual else 0)
    few = min(len(images), batch, GRADIENT_IMAGES) if parts.residual else 0
    step = counter(label, total, tell)
    pixels = normalise(images.pixels, *preprocessing)
    with at_rest(net):
        found = dict(zip(wounds, errors(parts, wounds, pixels, images.labels, batch, step), strict=True))
        paths = shares(parts, pixels[:few], images.labels[:few], PATHS * choice.draws, choice.seed, step) if parts.residual else ()
    return Net(
        label=label, network=net.plan.network, depth=net.plan.depth, error=found[deleted(units)],
        units=tuple(
            Deleted(unit.name, unit.stage, unit.index, unit.changes, found[single[i]] if i in single else None)
            for i, unit in enumerate(parts.units)
        ),
        thinned=tuple(
            Thinned(count, len(parts.deletable) - count, *averaged(found, draws)) for count, draws in thin.items()
        ),
        swapped=tuple(
            Swapped(count, fmean(wound.tau for wound in draws), *averaged(found, draws)) for count, draws in swap.items()
        ),
        paths=paths, gradient_images=few,
    )  # fmt: skip


def batch_size(plan: Plan) -> int:
    """So many images at a time that the inputs of all units stay below KEPT_BYTES."""
    numbers = sum(unit.at.numbers for unit in plan.units) + plan.units[-1].out.numbers
    return min(max(KEPT_BYTES // (FLOAT * numbers), 1), EVALUATED)


def averaged(found: Errors, wounds: Iterable[Wound]) -> tuple[float, float | None]:
    """The mean error and its sample sd, which one value does not have."""
    values = [found[wound] for wound in wounds]
    return fmean(values), stdev(values) if len(values) > 1 else None


def counter(label: str, total: int, tell: Listener) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell(label, done, total)

    return step
