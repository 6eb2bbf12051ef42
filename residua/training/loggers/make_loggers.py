"""Make the run loggers that the user names."""

from collections.abc import Callable, Sequence

from residua.errors import UsageError, unknown_name_error
from residua.extras import require_extra
from residua.training.loggers.mlflow_logger import MlflowLogger
from residua.training.loggers.run_logger import RunLogger
from residua.training.loggers.tensorboard_logger import TensorBoardLogger
from residua.training.loggers.wandb_logger import WandbLogger

LOGGER_NAMES: dict[str, Callable[[], RunLogger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}
LOGGER_METHODS = ("start", "log_values", "finish")


def make_run_loggers(
    requested: str | RunLogger | Sequence[str | RunLogger] | None,
) -> dict[str, RunLogger]:
    """Make the loggers that are requested by name or given as objects; returns them by name.

    A name may be several names with commas in between; None means no logger.  Raises UsageError for
    an unknown name, for a missing package, and for an object without the methods of a `RunLogger`.
    """
    if requested is None:
        return {}
    if isinstance(requested, str) or not isinstance(requested, Sequence):
        requested = [requested]
    loggers: dict[str, RunLogger] = {}
    for item in requested:
        if isinstance(item, str):
            for name in filter(None, map(str.strip, item.split(","))):
                loggers[name] = make_named_logger(name)
        else:
            loggers[name_own_logger(item, loggers)] = require_run_logger(item)
    return loggers


def make_named_logger(name: str) -> RunLogger:
    """Make a logger by its name; raises UsageError if there is none or its package is missing."""
    if name not in LOGGER_NAMES:
        raise unknown_name_error("logger", name, LOGGER_NAMES)
    require_extra(name)
    return LOGGER_NAMES[name]()


def require_run_logger(value: RunLogger) -> RunLogger:
    """Return the run logger `value`; raises UsageError if it lacks a method."""
    for method in LOGGER_METHODS:
        if not callable(getattr(value, method, None)):
            raise UsageError(
                f"{type(value).__name__} is not a run logger, because it has no method {method}: "
                f"give {', '.join(LOGGER_NAMES)}, or an object with {', '.join(LOGGER_METHODS)}"
            )
    return value


def name_own_logger(logger: RunLogger, others: dict[str, RunLogger]) -> str:
    """Name a logger of the user's own by its class, with a number if there are several."""
    name = type(logger).__name__
    same = [other for other in others if other.partition(" ")[0] == name]
    return f"{name} {len(same) + 1}" if same else name
