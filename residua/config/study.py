"""The description of a study: the arms it compares, depths, seeds and a shared recipe."""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from itertools import product

from residua.config.dataset import Dataset, get_dataset
from residua.config.fold import Fold, check_fold_count
from residua.config.network import Network
from residua.config.papers import compose_network_name, network
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.serialize import FORMAT_VERSION, Json, apply_override, from_json, to_json
from residua.errors import UsageError

MAX_RUNS = 10_000  # of a study; our choice


@dataclass(frozen=True, slots=True)
class Arm:
    """One candidate of a study: a family of networks, with its overrides of the study's recipe.

    family   name of the family, as for `compose_network_name`, e.g. `resnet,start=identity`
    changes  overrides of the study's recipe, e.g. `schedule.lr=0.02`
    label    text that reports print before the word "net", e.g. `zero-initialised`; "" uses the
             family
    depths   depths of this arm; () uses the study's depths
    """

    family: str
    changes: tuple[str, ...] = ()
    label: str = ""
    depths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.changes and not self.label:
            raise UsageError(
                f"an arm that changes the recipe needs a label: set one for {self.changes[0]}"
            )

    @property
    def title(self) -> str:
        return self.label or self.family

    def network_at_depth(self, depth: int) -> Network:
        """Return the arm's network of `depth` layers.

        Raises UsageError if the depth is impossible or the family is unknown.
        """
        return network(compose_network_name(self.family, depth))

    def apply_changes(self, base_recipe: Recipe) -> Recipe:
        return reduce(apply_override, self.changes, base_recipe)


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """One run of a study, identified by its arm, depth, seed and the fold that is held out."""

    arm: Arm
    depth: int
    seed: int
    fold: int = 0  # its number, from 1; 0 without folds

    @property
    def run_name(self) -> str:
        """The name of the run, which is also the name of its folder."""
        label = ""
        if self.arm.changes:
            label = "-" + re.sub(r"[^a-z0-9.]+", "-", self.arm.label.lower()).strip("-")
        fold = f"-fold{self.fold}" if self.fold else ""
        return f"{self.arm.network_at_depth(self.depth).name}{label}-seed{self.seed}{fold}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The networks to train for a comparison: every arm at every depth with every seed.

    An arm that has depths of its own is trained at those instead of the study's depths.

    dataset  the name of a data set, or the path of photographs
    folds    number of folds of the training images (k-fold cross-validation): every network is
             trained once for each fold that is held out; 0 holds out the usual dev images instead
    size     side of photographs in pixels; 0 for a named data set

    Raises UsageError if there is no arm, depth or seed, or if two arms have the same title.
    """

    question: str = ""
    dataset: str = "digits"
    arms: tuple[Arm, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    recipe: Recipe
    folds: int = field(default=0, metadata={"added_later": True})
    size: int = field(default=0, metadata={"added_later": True})

    def __post_init__(self) -> None:
        if self.folds:
            check_fold_count(self.folds)
        run_count = len(self.seeds) * sum(len(arm.depths or self.depths) for arm in self.arms)
        run_count *= self.folds or 1
        if run_count > MAX_RUNS:
            raise UsageError(
                f"a study of {run_count:,} runs is too large: choose at most {MAX_RUNS:,}"
            )
        for title, count in Counter(arm.title for arm in self.arms).items():
            if count > 1:
                raise UsageError(
                    f"two arms of the study are called {title!r}: give them different labels"
                )
        if not (self.arms and self.seeds and all(arm.depths or self.depths for arm in self.arms)):
            raise UsageError(
                "a study needs at least one arm, one depth and one seed: there is nothing to train"
            )

    def points_by_run_name(self) -> dict[str, StudyPoint]:
        """Return the study's points by the names of their runs, in training order.

        The runs of one seed come before those of the next seed, so that every network is trained
        once before any network is trained twice, and likewise those of one fold.  Within a seed and
        a fold the deepest networks come first, so that parallel workers finish at about the same
        time.  Raises UsageError if a depth is impossible, or if two arms are the same network; the
        message names these arms.
        """
        depths = sorted(
            {depth for arm in self.arms for depth in arm.depths or self.depths}, reverse=True
        )
        self.check_depths(depths)
        points: dict[str, StudyPoint] = {}
        folds = range(1, self.folds + 1) if self.folds else (0,)
        for seed, fold, depth, arm in product(dict.fromkeys(self.seeds), folds, depths, self.arms):
            if depth in (arm.depths or self.depths):
                point = StudyPoint(arm, depth, seed, fold)
                if (other := points.setdefault(point.run_name, point)) != point:
                    raise UsageError(
                        f"the arms {other.arm.title!r} and {arm.title!r} are the same network "
                        f"at {depth} layers: leave one of them out"
                    )
        return points

    def check_depths(self, depths: list[int]) -> None:
        """Raise UsageError if an arm has no network of one of these depths.

        The message names the impossible depths.
        """
        errors_by_depth: dict[int, UsageError] = {}
        for depth, arm in product(sorted(depths), self.arms):
            if depth in (arm.depths or self.depths):
                try:
                    arm.network_at_depth(depth)
                except UsageError as error:
                    errors_by_depth.setdefault(depth, error)
        if errors_by_depth:
            first_error = next(iter(errors_by_depth.values()))
            if 1 < len(errors_by_depth) < len(depths):  # if all fail, the family is wrong
                failed = ", ".join(map(str, errors_by_depth))
                raise UsageError(
                    f"the depths {failed} are impossible, the first because {first_error}"
                )
            raise first_error

    def make_run(self, point: StudyPoint, data: Dataset) -> Run:
        """Make the run of a point, for the images of `data`."""
        name = compose_network_name(point.arm.family, point.depth)
        net = network(name, input=data.input, classes=len(data.classes))
        recipe = point.arm.apply_changes(self.recipe)
        fold = Fold(point.fold, self.folds) if point.fold else None
        return Run(net, self.dataset, recipe, point.seed, fold=fold)

    def make_runs(self, data: Dataset | None = None) -> dict[str, Run]:
        """Make all runs of the study, by name, in the order of `points_by_run_name`.

        `data` is the study's data set; it may be left out if it is known by name.
        """
        dataset = data or get_dataset(self.dataset)
        points = self.points_by_run_name()
        return {name: self.make_run(point, dataset) for name, point in points.items()}

    @property
    def json(self) -> Json:
        content = to_json(self)
        return {"format": FORMAT_VERSION, **content} if isinstance(content, dict) else content


def parse_study(data: Json) -> Study:
    """Decode the JSON of a study.

    Studies stored by version 0.1, which have families instead of arms, are also accepted.  Raises
    RecordError if `data` does not describe a study.
    """
    if not isinstance(data, dict):
        return from_json(Study, data)
    content = {key: value for key, value in data.items() if key != "format"}
    if isinstance(families := content.pop("families", None), list):
        content["arms"] = [{"family": family} for family in families]
    return from_json(Study, content)
