"""The description of a training run: network, data set, recipe, seed and initial weights."""

import hashlib
import json
from dataclasses import dataclass, field

from residua.config.checks import check_seed_range
from residua.config.fold import Fold
from residua.config.recipe import Recipe
from residua.config.serialize import FORMAT_VERSION, Json, encode_field_value, from_json, to_json
from residua.config.vlad_config import ClassifierConfig
from residua.errors import UsageError


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that determines the outcome of a training run on a given machine.

    dataset  the name of a data set, or the path of a folder, a table or an archive
    recipe   the training recipe; None for VLAD, which is fitted in a single step
    start    fingerprint of the model folder or file that the initial weights come from; "" if the
             initial weights are random
    fold     the fold of the training images that is held out as the dev split; None for the usual
             dev split
    add_class  whether the last layer starts with the rows of the weights' classes, which come first
    """

    network: ClassifierConfig
    dataset: str
    recipe: Recipe | None
    seed: int = 0
    start: str = ""
    fold: Fold | None = field(default=None, metadata={"added_later": True})
    add_class: bool = field(default=False, metadata={"added_later": True})

    def __post_init__(self) -> None:
        check_seed_range(self.seed)
        if (self.recipe is not None) != self.network.IS_TRAINED_BY_STEPS:
            raise UsageError(
                f"{self.network.name} is trained in steps, but has no recipe: give the run a recipe"
                if self.recipe is None
                else f"{self.network.name} is fitted without training steps: set recipe=None"
            )

    def recipe_without_unneeded_warmup(self, depth: int) -> Recipe:
        """Return the recipe, without its warm-up if a network of `depth` layers needs none.

        Raises UsageError for VLAD, which has no recipe.
        """
        if self.recipe is None:
            raise UsageError(
                f"{self.network.name} has no recipe, because it is fitted without training steps: "
                "use the run of a network"
            )
        return self.recipe.drop_unneeded_warmup(depth)

    @property
    def id(self) -> str:
        """First ten hex digits of the SHA-256 of the run's JSON; equal runs have equal ids."""
        text = json.dumps(self.json, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def json(self) -> Json:
        return {
            "format": FORMAT_VERSION,
            "network": encode_field_value(self.network, ClassifierConfig),
            "dataset": self.dataset,
            "recipe": to_json(self.recipe),
            "seed": self.seed,
            **({"start": self.start} if self.start else {}),
            **({"fold": to_json(self.fold)} if self.fold else {}),
            **({"add_class": True} if self.add_class else {}),
        }


def parse_run(data: Json) -> Run:
    """Decode the JSON of a run that this or an earlier version has stored.

    Raises RecordError if `data` does not describe a run.
    """
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "format"}
    return from_json(Run, data)
