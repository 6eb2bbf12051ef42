"""Read and write `signals.json`, the record of a network's signals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from residua.config.serialize import Json, quote_json
from residua.errors import DamagedRecordError
from residua.files import write_json
from residua.record_checks import read_json_record

SIGNALS_RECORD = "signals.json"
MAX_SIGNAL = 1e100  # larger than any number that a network computes
SETTING_TYPES: dict[str, type | UnionType] = {
    "model": str,
    "depth": int,
    "plain": bool,
    "trained": bool,
    "seed": int | None,
    "data": str,
    "images": int,
    "environment": dict,
}
SIGNALS_KEYS = ("format", *SETTING_TYPES, "units", "null")
SIGNAL_NAMES = (
    "clip_fraction",
    "survival",
    "response_std",
    "residual_ratio",
    "gradient_norm",
    "activation_gradient_norm",
    "mean",
    "variance",
    "gradient_cosine",
    "gradient_correlation",
)

SignalValues = Sequence[float | None]
"""The values of one signal, one per unit from input to output; None if the signal is undefined."""


@dataclass(frozen=True, slots=True)
class SignalsRecord:
    """The content of `signals.json`: the signals of a network, and how they were measured."""

    model: str
    depth: int
    plain: bool
    trained: bool
    seed: int | None  # of the initial weights; None for a trained network
    data: str
    images: int
    environment: dict[str, Json]
    names: list[str]  # of the units, from input to output
    unit_stages: list[int]  # the stage of each unit, from 1
    measured: dict[str, SignalValues]  # by name of the signal
    predicted: dict[str, SignalValues]  # by the random-walk model; empty if it does not apply

    def __repr__(self) -> str:
        kind = "trained" if self.trained else "untrained"
        return f"SignalsRecord({self.model}, {kind}: {len(self.names)} units, {self.data})"

    def last_unit_index(self, stage: int) -> int:
        """Return the index in `names` of the stage's last unit, counted from 0."""
        return len(self.unit_stages) - 1 - self.unit_stages[::-1].index(stage)


def write_signals_record(signals_json: dict[str, Json], folder: Path) -> None:
    """Write `signals.json` into a folder."""
    write_json(folder / SIGNALS_RECORD, signals_json)


def read_signals_record(path: Path) -> SignalsRecord:
    """Read `signals.json`.

    Raises RecordError if the file is missing, damaged or of another format version.
    """
    content = read_json_record(path, "the signals of a network", SIGNALS_KEYS)
    try:
        return parse_signals_record(content)
    except KeyError as error:
        raise DamagedRecordError(f"{path} is damaged: it lacks {error}") from error
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise DamagedRecordError(f"{path} is damaged: {error}") from error


def parse_signals_record(content: dict[str, Any]) -> SignalsRecord:
    """Check the content of `signals.json` and convert it to a `SignalsRecord`.

    Raises KeyError, TypeError, AttributeError or ValueError if a part is missing or has the wrong
    form; the error's text names that part.
    """
    units, predicted_units = content["units"], content["null"]
    if not units:
        raise ValueError("it lists no units")
    if predicted_units and len(predicted_units) != len(units):
        raise ValueError("its predictions and its units differ in number")
    for key, kinds in SETTING_TYPES.items():
        if not isinstance(content[key], kinds):
            raise ValueError(f"its {key} has the wrong type: {quote_json(content[key])}")
    for unit in units:
        if not isinstance(unit["name"], str) or not isinstance(unit["stage"], int):
            raise ValueError("a unit has no name, or its stage is not a number")
    measured = {
        signal: require_numbers_or_none(signal, [unit[signal] for unit in units])
        for signal in SIGNAL_NAMES
    }
    predicted = {
        signal: require_numbers_or_none(
            signal, [unit and unit.get(signal) for unit in predicted_units]
        )
        for signal in (SIGNAL_NAMES if predicted_units else ())
    }
    return SignalsRecord(
        **{key: content[key] for key in SETTING_TYPES},
        names=[unit["name"] for unit in units],
        unit_stages=[unit["stage"] for unit in units],
        measured=measured,
        predicted=predicted,
    )


def require_numbers_or_none(signal: str, values: SignalValues) -> SignalValues:
    """Return the values of a signal; raise ValueError if one is neither a number nor None."""
    if not all(value is None or isinstance(value, int | float) for value in values):
        raise ValueError(f"a value of {signal} is not a number")
    if max((abs(value) for value in values if value is not None), default=0) > MAX_SIGNAL:
        raise ValueError(f"a value of {signal} is beyond {MAX_SIGNAL:.0e}")
    return values
