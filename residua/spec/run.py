"""A run: network x data set x recipe x seed, from fresh weights or from those of a model folder."""

import hashlib
import json
from dataclasses import dataclass

from residua.errors import UsageError
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
    start: str = ""  # fingerprint of the model folder whose weights it starts from

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed {self.seed} is impossible: give a whole number from 0 to {2**32 - 1}")

    @property
    def id(self) -> str:
        """The same for equal runs: a hash of the run's JSON."""
        text = json.dumps(self.json, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def json(self) -> Json:
        return {"format": FORMAT, "network": to_json(self.network), "dataset": self.dataset, "recipe": to_json(self.recipe),
                "seed": self.seed, **({"start": self.start} if self.start else {})}  # fmt: skip
