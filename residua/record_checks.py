"""Read and check the JSON of records: what is damaged is said, with the name of the file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from residua.bounded_json import Json, read_json
from residua.config.serialize import FORMAT_VERSION, quote_json
from residua.errors import DamagedRecordError, MissingRecordError, RecordError

RUN_PARTS = ("run", "environment", "result")  # keys of run.json, besides its format
RESULT_NUMBERS = (
    "steps",
    "seconds",
    "images_per_second",
    "train_loss",
    "dev_images",
    "test_images",
)
JsonObject: TypeAlias = dict[str, Json]
MetricsRow: TypeAlias = dict[str, float | None]


def read_json_record(path: Path, content: str, keys: Iterable[str] = ()) -> JsonObject:
    """Read a JSON object from `path`; check its format version and that it has all of `keys`.

    In error messages, `content` names what the file should hold, e.g. "a run".  Raises RecordError
    if the file is missing or has another format version.  Raises DamagedRecordError if it is not
    valid JSON, not an object, or lacks a key.
    """
    try:
        record = read_json(path)
    except MissingRecordError:
        what = content.split(" ", 1)[1]
        raise MissingRecordError(
            f"{path.parent} contains no {what}: it has no {path.name}"
        ) from None
    return check_json_record(record, path, content, keys)


def check_json_record(
    record: Json, path: Path, content: str, keys: Iterable[str] = ()
) -> JsonObject:
    """Check `record`, already read from `path`, as `read_json_record` does, and return it."""
    if not isinstance(record, dict) or not set(keys) <= set(record):
        raise DamagedRecordError(f"{path} is damaged: it does not describe {content}")
    if (found := record.get("format", FORMAT_VERSION)) != FORMAT_VERSION:
        raise RecordError(
            f"{path} has format {quote_json(found)}, but this version of residua reads format "
            f"{FORMAT_VERSION}: use the version that wrote it"
        )
    return record


def check_run_json(record: Json, path: Path) -> JsonObject:
    """Check the content of a run.json, already read from `path`, and return it.

    Raises the errors of `check_json_record`, and DamagedRecordError if a part has the wrong form.
    """
    content = check_json_record(record, path, "a run", ("format", *RUN_PARTS))
    for part in RUN_PARTS:
        value = content[part]
        if not isinstance(value, dict) and not (part == "result" and value is None):
            raise DamagedRecordError(
                f"{path} is damaged: its {part} is {quote_json(value)}, not an object"
            )
    result = content["result"]
    if result == {}:
        raise DamagedRecordError(f"{path} is damaged: its result is empty")
    if isinstance(result, dict):
        check_result_numbers(result, path)
    return content


def check_result_numbers(result: JsonObject, path: Path) -> None:
    """Raise DamagedRecordError if an error, interval or count of a result is no number or null."""
    for name, value in result.items():
        if name.endswith("_interval"):
            is_pair = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
            is_valid = value is None or is_pair
        elif "error" in name or name in RESULT_NUMBERS:
            is_valid = value is None or is_number(value)
        else:
            continue
        if not is_valid:
            raise DamagedRecordError(f"{path} is damaged: {name} is {quote_json(value)}")


def check_metrics_row(row: Json, path: Path) -> MetricsRow:
    if not isinstance(row, dict) or not is_number(row.get("step")):
        text = json.dumps(row)[:60]
        raise DamagedRecordError(
            f"{path} is damaged: {text} is not a row of metrics, because it has no step"
        )
    for name, value in row.items():
        if value is not None and not is_number(value):
            raise DamagedRecordError(
                f"{path} is damaged: in one row, {name} is {quote_json(value)}, not a number"
            )
    return row  # type: ignore[return-value]


def is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
