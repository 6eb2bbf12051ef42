"""A study as a value: the arms that it compares, their depths and seeds, and all that the arms have in common."""

import re
from dataclasses import dataclass
from functools import reduce
from itertools import product

from residua.config.dataset import get_dataset
from residua.config.network import Network
from residua.config.papers import compose_network_name, network
from residua.config.recipe import Recipe
from residua.config.run import Run
from residua.config.serialize import FORMAT_VERSION, Json, apply_override, from_json, to_json
from residua.errors import UsageError


@dataclass(frozen=True, slots=True)
class Arm:
    """One of what is compared: a family of networks, and what it changes in the study's recipe.

    A label stands before the word "net" in sentences: `original`, `zero-initialised`.
    """

    family: str  # as `member` takes it, e.g. resnet,start=identity
    changes: tuple[str, ...] = ()  # as --set takes them, e.g. schedule.lr=0.02
    label: str = ""  # the family, where there is none
    depths: tuple[int, ...] = ()  # of its own; the study's, where there are none

    def __post_init__(self) -> None:
        if self.changes and not self.label:
            raise UsageError(
                f"an arm that changes the recipe ({self.changes[0]}) needs a label: say what it is called"
            )

    @property
    def title(self) -> str:
        return self.label or self.family

    def network_at_depth(self, depth: int) -> Network:
        """As the papers have it; UsageError for an impossible depth or an unknown family."""
        return network(compose_network_name(self.family, depth))

    def apply_changes(self, base_recipe: Recipe) -> Recipe:
        return reduce(apply_override, self.changes, base_recipe)


@dataclass(frozen=True, slots=True)
class StudyPoint:
    """A run's place in its study."""

    arm: Arm
    depth: int
    seed: int

    @property
    def run_name(self) -> str:
        """Of the run's folder."""
        label = (
            f"-{re.sub(r'[^a-z0-9.]+', '-', self.arm.label.lower()).strip('-')}"
            if self.arm.changes
            else ""
        )
        return f"{self.arm.network_at_depth(self.depth).name}{label}-seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Which networks to train, on what, how.  UsageError for one that compares nothing, or the same thing twice."""

    question: str = ""
    dataset: str = "digits"
    arms: tuple[Arm, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    recipe: Recipe

    def __post_init__(self) -> None:
        titles = [arm.title for arm in self.arms]
        if duplicates := [title for title in titles if titles.count(title) > 1]:
            raise UsageError(
                f"two arms of the study are called {duplicates[0]!r}: give each a label of its own"
            )
        if not (self.arms and self.seeds and all(arm.depths or self.depths for arm in self.arms)):
            raise UsageError(
                "a study needs an arm, a depth and a seed at least: there is nothing to train"
            )

    def points_by_run_name(self) -> dict[str, StudyPoint]:
        """Each run's place by its name.  Seed by seed, and the deepest first: what there is time for is one seed of everything
        before two, and the last to end, side by side, are short.

        UsageError that names the impossible depths, and where two arms are the same.
        """
        depths = sorted(
            {depth for arm in self.arms for depth in arm.depths or self.depths}, reverse=True
        )
        self.check_depths(depths)
        points: dict[str, StudyPoint] = {}
        for seed, depth, arm in product(dict.fromkeys(self.seeds), depths, self.arms):
            if depth in (arm.depths or self.depths):
                point = StudyPoint(arm, depth, seed)
                if (other := points.setdefault(point.run_name, point)) != point:
                    raise UsageError(
                        f"{other.arm.title!r} and {arm.title!r} are the same at {depth} layers: leave one of them out"
                    )
        return points

    def check_depths(self, depths: list[int]) -> None:
        errors_by_depth: dict[int, UsageError] = {}
        for depth, arm in product(sorted(depths), self.arms):
            if depth in (arm.depths or self.depths):
                try:
                    arm.network_at_depth(depth)
                except UsageError as error:
                    errors_by_depth.setdefault(depth, error)
        if errors_by_depth:
            only_some_fail = (
                1 < len(errors_by_depth) < len(depths)
            )  # at every depth it is the family that is wrong
            prefix = (
                f"impossible depths {', '.join(map(str, errors_by_depth))}: "
                if only_some_fail
                else ""
            )
            raise UsageError(f"{prefix}{next(iter(errors_by_depth.values()))}")

    def make_run(self, point: StudyPoint) -> Run:
        data = get_dataset(self.dataset)
        name = compose_network_name(point.arm.family, point.depth)
        net = network(name, input=data.input, classes=len(data.classes))
        return Run(net, self.dataset, point.arm.apply_changes(self.recipe), point.seed)

    def make_runs(self) -> dict[str, Run]:
        """Each run by name, in the order of `places`."""
        return {name: self.make_run(place) for name, place in self.points_by_run_name().items()}

    @property
    def json(self) -> Json:
        content = to_json(self)
        return {"format": FORMAT_VERSION, **content} if isinstance(content, dict) else content


def parse_study(data: Json) -> Study:
    """The study that its JSON tells, also that of an earlier version, whose arms were families; RecordError where it tells none."""
    fields = (
        {key: value for key, value in data.items() if key != "format"}
        if isinstance(data, dict)
        else data
    )
    if isinstance(fields, dict) and isinstance(families := fields.pop("families", None), list):
        fields["arms"] = [{"family": family} for family in families]
    return from_json(Study, fields)
