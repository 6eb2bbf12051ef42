"""Log a run to event files in its folder, which TensorBoard reads."""

import re
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from residua.config.serialize import Json
from residua.files import append_bytes
from residua.training.loggers.run_logger import collect_result_values, flatten_settings

EVENT_FILE = "events.out.tfevents."  # TensorBoard recognises its files by this


class TensorBoardLogger:
    """Writes each session of a run to an event file of its own, directly in the run's folder.

    `tensorboard --logdir runs` then shows every run under its folder's name.  TensorBoard's own
    writer does its work in a thread, where a full disk goes unnoticed for a while; a row per
    evaluation needs no thread, so only the format of its records is taken from that package.
    """

    def __init__(self) -> None:
        self.path = Path()
        self.last_step = 0
        self.logged_step = 0  # of earlier sessions
        self.has_begun = False  # whether this process has written values

    def start(self, settings: dict[str, Json], folder: Path) -> None:
        """Begin a new event file; the settings go to the first one, for the tab HPARAMS."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        earlier_times = [
            int(match[1])
            for path in folder.glob(f"{EVENT_FILE}*")
            if (match := re.match(rf"{re.escape(EVENT_FILE)}(\d+)\.", path.name))
        ]
        # Files are read in the order of their names, also if a clock has been set back.
        start_time = max([int(time.time()), *(earlier + 1 for earlier in earlier_times)])
        self.path = folder / f"{EVENT_FILE}{start_time:010d}.{socket.gethostname()}"
        self.has_begun = False
        self.logged_step = find_last_step(folder)
        self.write_event(file_version="brain.Event:2")
        if not earlier_times:
            flat = flatten_settings(settings)
            self.write_event(summary=hparams_pb(flat, trial_id=str(settings["id"])))

    def log_values(self, step: int, values: dict[str, float]) -> None:
        """Write the values of a step, each under its name in metrics.jsonl."""
        self.write_scalars(step, values)

    def finish(self, result: dict[str, Json] | None) -> None:
        """Write the numbers of the result at the last step, e.g. as `result/test_error`."""
        if result is not None:
            steps = result.get("steps")
            self.write_scalars(
                steps if isinstance(steps, int) else self.last_step, collect_result_values(result)
            )

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Write values of one step; the first ones after a resume replace all from this step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self.has_begun:  # the second such event of a run tells TensorBoard of a restart
            self.write_event(step=step, session_log=SessionLog(status=SessionLog.START))
            self.has_begun = True
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.write_event(step=step, summary=Summary(value=scalars))
        self.last_step = step

    def write_event(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        framed = BytesIO()
        RecordWriter(framed).write(Event(wall_time=time.time(), **content).SerializeToString())
        append_bytes(self.path, framed.getvalue())


def find_last_step(folder: Path) -> int:
    """Find the last step in the event files of a folder; 0 if there are none."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return max(
        (
            event.step
            for path in folder.glob(f"{EVENT_FILE}*")
            for event in EventFileLoader(str(path)).Load()
        ),
        default=0,
    )
