"""The record of a network's signals, `signals.json`, as it is read."""

import json
from dataclasses import dataclass
from pathlib import Path

from residua.errors import RecordError
from residua.report.panels import FIGURES, Values
from residua.spec.text import FORMAT, Json

RECORD = "signals.json"
FIELDS = {"format", "model", "depth", "plain", "trained", "seed", "data", "images", "environment", "units", "null"}


@dataclass(frozen=True, slots=True)
class Signals:
    """What `signals.json` holds; each signal's values by its name, a value a unit."""

    model: str
    depth: int
    plain: bool
    trained: bool
    seed: int | None
    data: str
    images: int
    environment: dict[str, Json]
    names: list[str]
    stages: list[int]
    measured: dict[str, Values]
    foreseen: dict[str, Values]

    def last(self, stage: int) -> int:
        """Where the stage's last unit is."""
        return len(self.stages) - 1 - self.stages[::-1].index(stage)


def read(path: Path) -> Signals:
    """RecordError where the file is missing, damaged or of another format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path.parent} holds no signals: it has no {path.name}") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not set(content) >= FIELDS:
        raise RecordError(f"{path} is damaged: it holds no signals")
    if content["format"] != FORMAT:
        raise RecordError(f"{path} has format {content['format']}; this version reads format {FORMAT}")
    units, null = content["units"], content["null"]
    keys = [panel.key for shown in FIGURES.values() for panel in shown]
    try:
        if not units or len(null or units) != len(units) or not isinstance(content["environment"], dict):
            raise ValueError("units, or where they were measured")
        return Signals(
            **{name: content[name] for name in ("model", "depth", "plain", "trained", "seed", "data", "images", "environment")},
            names=[unit["name"] for unit in units],
            stages=[unit["stage"] for unit in units],
            measured={key: numbers(key, [unit[key] for unit in units]) for key in keys},
            foreseen={key: numbers(key, [unit and unit.get(key) for unit in null]) for key in keys} if null else {},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: it lacks {error}") from error


def numbers(key: str, values: Values) -> Values:
    """The values, each a number or None; ValueError where one is neither."""
    if not all(value is None or isinstance(value, int | float) for value in values):
        raise ValueError(f"numbers for {key}")
    return values
