"""A run: network x data set x recipe x seed, from fresh weights or from those of a model folder."""

import hashlib
import json
from dataclasses import dataclass

from residua.config.network import Network
from residua.config.recipe import Recipe
from residua.config.serialize import FORMAT_VERSION, Json, from_json, to_json, to_tagged_json
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run's outcome is a function of, on one machine."""

    network: ClassifierConfig
    dataset: str
    recipe: Recipe | None  # None for VLAD, which is fitted at once
    seed: int = 0
    start: str = ""  # fingerprint of the model folder whose weights it starts from

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(
                f"seed {self.seed} is impossible: give a whole number from 0 to {2**32 - 1}"
            )
        if isinstance(self.network, Network) != (self.recipe is not None):
            raise UsageError(
                "a network is trained by a recipe, VLAD is fitted without one: give the one and not the other"
            )

    def recipe_for_depth(self, depth: int) -> Recipe:
        """The recipe as a network of that depth is trained by it; UsageError for VLAD, which has none."""
        if self.recipe is None:
            raise UsageError(f"{self.network.name} is fitted at once, not trained by a recipe")
        return self.recipe.drop_unneeded_warmup(depth)

    @property
    def id(self) -> str:
        """The same for equal runs: a hash of the run's JSON."""
        text = json.dumps(self.json, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def json(self) -> Json:
        return {
            "format": FORMAT_VERSION,
            "network": to_tagged_json(self.network, ClassifierConfig),
            "dataset": self.dataset,
            "recipe": to_json(self.recipe),
            "seed": self.seed,
            **({"start": self.start} if self.start else {}),
        }


def parse_run(data: Json) -> Run:
    """The run that its JSON tells, also that of an earlier version; RecordError where it tells none."""
    return from_json(
        Run,
        {key: value for key, value in data.items() if key != "format"}
        if isinstance(data, dict)
        else data,
    )
