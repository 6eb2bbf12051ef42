"""The record of a network's signals, `signals.json`, as it is read."""

import json
from dataclasses import dataclass
from pathlib import Path

from residua.config.serialize import FORMAT_VERSION, Json
from residua.errors import RecordError
from residua.report.signals_figures import SIGNALS_FIGURES, SignalValues

SIGNALS_RECORD = "signals.json"
SIGNALS_FIELDS = {
    "format",
    "model",
    "depth",
    "plain",
    "trained",
    "seed",
    "data",
    "images",
    "environment",
    "units",
    "null",
}


@dataclass(frozen=True, slots=True)
class SignalsRecord:
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
    unit_stages: list[int]
    measured: dict[str, SignalValues]
    predicted: dict[str, SignalValues]

    def last_unit_index(self, stage: int) -> int:
        """Where the stage's last unit is."""
        return len(self.unit_stages) - 1 - self.unit_stages[::-1].index(stage)


def read_signals_record(path: Path) -> SignalsRecord:
    """RecordError where the file is missing, damaged or of another format."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path.parent} holds no signals: it has no {path.name}") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or not set(content) >= SIGNALS_FIELDS:
        raise RecordError(f"{path} is damaged: it holds no signals")
    if content["format"] != FORMAT_VERSION:
        raise RecordError(
            f"{path} has format {content['format']}; this version reads format {FORMAT_VERSION}"
        )
    units, null_units = content["units"], content["null"]
    signal_names = [panel.signal for shown in SIGNALS_FIGURES.values() for panel in shown]
    try:
        if (
            not units
            or len(null_units or units) != len(units)
            or not isinstance(content["environment"], dict)
        ):
            raise ValueError("units, or where they were measured")
        return SignalsRecord(
            **{
                name: content[name]
                for name in (
                    "model",
                    "depth",
                    "plain",
                    "trained",
                    "seed",
                    "data",
                    "images",
                    "environment",
                )
            },
            names=[unit["name"] for unit in units],
            unit_stages=[unit["stage"] for unit in units],
            measured={
                key: check_signal_numbers(key, [unit[key] for unit in units])
                for key in signal_names
            },
            predicted={
                key: check_signal_numbers(key, [unit and unit.get(key) for unit in null_units])
                for key in signal_names
            }
            if null_units
            else {},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: it lacks {error}") from error


def check_signal_numbers(signal: str, values: SignalValues) -> SignalValues:
    """The values, each a number or None; ValueError where one is neither."""
    if not all(value is None or isinstance(value, int | float) for value in values):
        raise ValueError(f"numbers for {signal}")
    return values
