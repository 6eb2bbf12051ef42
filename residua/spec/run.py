"""A run: network x data set x recipe x seed."""

import hashlib
import json
from dataclasses import dataclass

from residua.spec.network import Network
from residua.spec.recipe import Recipe
from residua.spec.text import FORMAT, Json, to_json


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run's outcome is a function of, on one machine."""

    network: Network
    dataset: str
    recipe: Recipe
    seed: int = 0

    @property
    def id(self) -> str:
        """The same for equal runs: a hash of the run's JSON."""
        text = json.dumps(self.json, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def json(self) -> Json:
        return {"format": FORMAT, "network": to_json(self.network), "dataset": self.dataset,
                "recipe": to_json(self.recipe), "seed": self.seed}  # fmt: skip
