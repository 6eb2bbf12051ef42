"""Run loggers: what a run measures, in TensorBoard, Weights & Biases, MLflow or an object of yours.

run_logger          what a run logger is, and the values that it gets
run_logs            the loggers of one run, as a progress listener; a failure is one warning
make_loggers        make the loggers that the user names
tracked_run         which run of a tracking service a folder belongs to, and its last logged step
tensorboard_logger  event files that TensorBoard reads
wandb_logger        a run of Weights & Biases
mlflow_logger       a run of MLflow
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.training.loggers.make_loggers import LOGGER_NAMES as LOGGER_NAMES
    from residua.training.loggers.make_loggers import make_run_loggers as make_run_loggers
    from residua.training.loggers.run_logger import RunLogger as RunLogger
    from residua.training.loggers.run_logs import RunLogs as RunLogs

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "make_loggers": "LOGGER_NAMES make_run_loggers",
        "run_logger": "RunLogger",
        "run_logs": "RunLogs",
    },
)
