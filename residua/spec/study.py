"""A study as a value: the arms that it compares, their depths and seeds, and all that the arms have in common."""

import re
from dataclasses import dataclass
from functools import reduce
from itertools import product

from residua.errors import UsageError
from residua.spec.dataset import dataset
from residua.spec.network import Network
from residua.spec.papers import member, network
from residua.spec.recipe import Recipe
from residua.spec.run import Run
from residua.spec.text import FORMAT, Json, from_json, overridden, to_json


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
            raise UsageError(f"an arm that changes the recipe ({self.changes[0]}) needs a label: say what it is called")

    @property
    def title(self) -> str:
        return self.label or self.family

    def network(self, depth: int) -> Network:
        """As the papers have it; UsageError for an impossible depth or an unknown family."""
        return network(member(self.family, depth))

    def recipe(self, common: Recipe) -> Recipe:
        return reduce(overridden, self.changes, common)


@dataclass(frozen=True, slots=True)
class Place:
    """A run's place in its study."""

    arm: Arm
    depth: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        label = f"-{re.sub(r'[^a-z0-9.]+', '-', self.arm.label.lower()).strip('-')}" if self.arm.changes else ""
        return f"{self.arm.network(self.depth).name}{label}-seed{self.seed}"


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
        if twice := [title for title in titles if titles.count(title) > 1]:
            raise UsageError(f"two arms of the study are called {twice[0]!r}: give each a label of its own")
        if not (self.arms and self.seeds and all(arm.depths or self.depths for arm in self.arms)):
            raise UsageError("a study needs an arm, a depth and a seed at least: there is nothing to train")

    def places(self) -> dict[str, Place]:
        """Each run's place by its name.  Seed by seed, and the deepest first: what there is time for is one seed of everything
        before two, and the last to end, side by side, are short.

        UsageError that names the impossible depths, and where two arms are the same.
        """
        depths = sorted({depth for arm in self.arms for depth in arm.depths or self.depths}, reverse=True)
        self.refuse_impossible(depths)
        places: dict[str, Place] = {}
        for seed, depth, arm in product(dict.fromkeys(self.seeds), depths, self.arms):
            if depth in (arm.depths or self.depths):
                place = Place(arm, depth, seed)
                if (other := places.setdefault(place.name, place)) != place:
                    raise UsageError(f"{other.arm.title!r} and {arm.title!r} are the same at {depth} layers: leave one of them out")
        return places

    def refuse_impossible(self, depths: list[int]) -> None:
        errors: dict[int, UsageError] = {}
        for depth, arm in product(sorted(depths), self.arms):
            if depth in (arm.depths or self.depths):
                try:
                    arm.network(depth)
                except UsageError as error:
                    errors.setdefault(depth, error)
        if errors:
            some = 1 < len(errors) < len(depths)  # at every depth it is the family that is wrong
            several = f"impossible depths {', '.join(map(str, errors))}: " if some else ""
            raise UsageError(f"{several}{next(iter(errors.values()))}")

    def run(self, place: Place) -> Run:
        data = dataset(self.dataset)
        family = member(place.arm.family, place.depth)
        net = network(family, input=data.input, classes=len(data.classes))
        return Run(net, self.dataset, place.arm.recipe(self.recipe), place.seed)

    def runs(self) -> dict[str, Run]:
        """Each run by name, in the order of `places`."""
        return {name: self.run(place) for name, place in self.places().items()}

    @property
    def json(self) -> Json:
        content = to_json(self)
        return {"format": FORMAT, **content} if isinstance(content, dict) else content


def study_of(data: Json) -> Study:
    """The study that its JSON tells, also that of an earlier version, whose arms were families; RecordError where it tells none."""
    told = {key: value for key, value in data.items() if key != "format"} if isinstance(data, dict) else data
    if isinstance(told, dict) and isinstance(families := told.pop("families", None), list):
        told["arms"] = [{"family": family} for family in families]
    return from_json(Study, told)
