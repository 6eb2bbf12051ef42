"""Which run of a tracking service the folder of a run belongs to, and its last logged step."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from residua.bounded_json import read_json
from residua.errors import MissingRecordError, RecordError
from residua.files import write_json


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The id of a run at a tracking service, in a small file of the run's folder.

    A resumed run goes on in the same run of the service.  Services keep a value that comes twice
    twice, or refuse it, so `step` says what they have.
    """

    id: str
    step: int = 0  # the last one that was logged

    def move_to_step(self, step: int, path: Path) -> "TrackedRun":
        """Return this identity with another last step, which the file at `path` gets, too."""
        moved = replace(self, step=step)
        moved.write_to(path)
        return moved

    def write_to(self, path: Path) -> None:
        """Write this identity to a file in the run's folder."""
        write_json(path, asdict(self))


def read_tracked_run(path: Path) -> TrackedRun | None:
    """Read the identity that an earlier session of the run has kept; None if there is none.

    Raises RecordError if the file is damaged.
    """
    try:
        data = read_json(path)
    except MissingRecordError:
        return None
    if isinstance(data, dict):
        run_id, step = data.get("id"), data.get("step")
        if isinstance(run_id, str) and run_id and isinstance(step, int):
            return TrackedRun(run_id, step)
    raise RecordError(f"{path} is damaged: delete it, and the run is logged as a new one")
