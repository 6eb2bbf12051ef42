"""Log a run to Weights & Biases."""

import os
import secrets
from pathlib import Path
from typing import Any

from residua.config.serialize import Json
from residua.training.loggers.run_logger import collect_result_values
from residua.training.loggers.tracked_run import TrackedRun, read_tracked_run

WANDB_FILE = "wandb-run.json"
WANDB_PROJECT = "residua"  # unless WANDB_PROJECT, which the library reads, names another one


class WandbLogger:
    """Logs to a run of Weights & Biases, named like the run's folder, whose files lie in it.

    The library's own variables choose the account, the project and the mode, e.g. WANDB_PROJECT and
    WANDB_MODE=offline.
    """

    def __init__(self) -> None:
        self.run: Any = None
        self.path, self.identity = Path(), TrackedRun("")

    @property
    def logged_step(self) -> int:
        """The last step that the run of Weights & Biases has."""
        return self.identity.step

    def start(self, settings: dict[str, Json], folder: Path) -> None:
        """Begin a run of Weights & Biases, or go on with that of an earlier session."""
        import wandb

        self.path = folder / WANDB_FILE
        kept = read_tracked_run(self.path)
        self.identity = kept or TrackedRun(secrets.token_hex(4))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or WANDB_PROJECT,
            id=self.identity.id,
            name=folder.name,
            dir=str(folder),
            config=settings,
            resume="allow",
            reinit="create_new",  # a run that the user has begun stays as it is
            # its record of standard output would take the progress bar for output
            settings=wandb.Settings(console="off"),
        )
        if kept is None:
            self.identity.write_to(self.path)

    def log_values(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step that was not logged before."""
        if step > self.identity.step:
            self.identity = self.identity.move_to_step(step, self.path)
            self.run.log(values, step=step)

    def finish(self, result: dict[str, Json] | None) -> None:
        """Put the numbers of the result into the summary of the run, and finish it."""
        if result is not None:
            self.run.summary.update(collect_result_values(result))
        self.run.finish(exit_code=1 if result is None else 0)
