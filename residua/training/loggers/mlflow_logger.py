"""Log a run to MLflow."""

import os
import time
from pathlib import Path
from typing import Any

from residua.config.serialize import Json
from residua.training.loggers.run_logger import collect_result_values, flatten_settings
from residua.training.loggers.tracked_run import TrackedRun, read_tracked_run

MLFLOW_FILE = "mlflow-run.json"
MLFLOW_EXPERIMENT = "residua"  # unless MLFLOW_EXPERIMENT_NAME names another one
# Training waits for the server.  If it is gone, the library's seven retries take over four minutes.
RETRIES_VARIABLE, FEW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"
MAX_PARAMS = 100  # of one request, see MLflow's REST API, "Runs log batch"
MAX_PARAM_LENGTH = 500  # characters, the limit of older versions


class MlflowLogger:
    """Logs to a run of MLflow, named like the run's folder, where MLFLOW_TRACKING_URI says.

    Without that variable it is where MLflow itself puts runs.
    """

    def __init__(self) -> None:
        self.client: Any = None
        self.path, self.identity = Path(), TrackedRun("")

    @property
    def logged_step(self) -> int:
        """The last step that the run of MLflow has."""
        return self.identity.step

    def start(self, settings: dict[str, Json], folder: Path) -> None:
        """Create a run of MLflow with the settings as parameters, or go on with an earlier one."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        os.environ.setdefault(RETRIES_VARIABLE, FEW_RETRIES)
        self.client, self.path = MlflowClient(), folder / MLFLOW_FILE
        kept = read_tracked_run(self.path)
        if kept is not None:
            self.identity = kept
            self.client.update_run(kept.id, status="RUNNING")
            return
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or MLFLOW_EXPERIMENT
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        run = self.client.create_run(experiment_id, run_name=folder.name)
        self.identity = TrackedRun(run.info.run_id)
        params = [
            Param(name, str(value)[:MAX_PARAM_LENGTH])
            for name, value in flatten_settings(settings).items()
        ]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(self.identity.id, params=params[start : start + MAX_PARAMS])
        self.identity.write_to(self.path)

    def log_values(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step that was not logged before."""
        if step > self.identity.step:
            self.identity = self.identity.move_to_step(step, self.path)
            self.write_metrics(step, values)

    def finish(self, result: dict[str, Json] | None) -> None:
        """Log the numbers of the result, and end the run of MLflow."""
        if result is not None:
            self.write_metrics(self.identity.step, collect_result_values(result))
        status = "KILLED" if result is None else "FINISHED"
        self.client.set_terminated(self.identity.id, status)

    def write_metrics(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        milliseconds = int(1000 * time.time())
        metrics = [Metric(name, value, milliseconds, step) for name, value in values.items()]
        self.client.log_batch(self.identity.id, metrics=metrics)
