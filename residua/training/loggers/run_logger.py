"""What a run logger is, and the values that it gets."""

from pathlib import Path
from typing import Protocol

from residua.config.serialize import Json
from residua.record import MetricsRow


class RunLogger(Protocol):
    """Gets the settings, the measurements and the result of a run while it is trained.

    After a resume, steps since the last checkpoint are trained and logged again, with the same
    values.  An error in `start` ends the run before its first step; after a later error, training
    goes on without the logger.

    A logger with an attribute `logged_step`, which `start` sets to the last step that it already
    has, also gets the recorded rows after this step, e.g. of sessions without it.
    """

    def start(self, settings: dict[str, Json], folder: Path) -> None:
        """Get the content of run.json (`id`, `run`, `environment`) and the run's folder.

        Called before the first step of each session, on rank 0 alone.
        """

    def log_values(self, step: int, values: dict[str, float]) -> None:
        """Get a row of metrics.jsonl, without its nulls, and `images_per_second` since the last.

        `step` is the number of steps done.
        """

    def finish(self, result: dict[str, Json] | None) -> None:
        """Get the result of the run, as in run.json; None if it stopped before its end."""


def collect_logged_values(
    row: MetricsRow, previous_row: MetricsRow | None, batch_size: int
) -> dict[str, float]:
    """Collect what is logged of a row of metrics.jsonl: its numbers, except step and seconds.

    `images_per_second` counts the training images since `previous_row`, or since the beginning, per
    second of training.
    """
    values = {
        name: value
        for name, value in row.items()
        if value is not None and name not in ("step", "seconds")
    }
    step, seconds = (
        (row[name] or 0) - ((previous_row or {}).get(name) or 0) for name in ("step", "seconds")
    )
    if seconds > 0:
        values["images_per_second"] = step * batch_size / seconds
    return values


def collect_result_values(result: dict[str, Json]) -> dict[str, float]:
    """Collect the numbers of a run's result, under names such as `result/test_error`."""
    return {
        f"result/{name}": value
        for name, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flatten_settings(settings: Json, path: str = "") -> dict[str, str | int | float | bool]:
    """Flatten nested settings to one dict with dotted keys; lists and nulls become text."""
    if isinstance(settings, dict) and settings:
        flat: dict[str, str | int | float | bool] = {}
        for name, value in settings.items():
            flat |= flatten_settings(value, f"{path}.{name}" if path else name)
        return flat
    return {path: settings if isinstance(settings, str | int | float) else str(settings)}
