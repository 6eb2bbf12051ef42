"""How the ranks of a distributed run learn that one of them has stopped, and why.

The rank that fails writes its error to the key-value store that all ranks share and leaves the
group, which ends the collective operations in which the other ranks wait for it.
"""

import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist

from residua.errors import RankStoppedError, ResiduaError, TrainingError, describe_os_error

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

CONNECTION_LOST_PATTERN = re.compile(
    r"gloo|nccl|connection (closed|reset)|timed out|broken pipe", re.IGNORECASE
)
POLL_SECONDS = 0.02
TELL_SECONDS = 10.0  # for which a rank that failed waits until the others know; they may be busy
ANSWER_SECONDS = 1.0  # within which the ranks that still run notice that one of them is lost
RESUME_ADVICE = (
    "continue with --resume, or start with torchrun --max-restarts, which resumes by itself"
)


@dataclass(frozen=True, slots=True)
class FailureBoard:
    """What the ranks of a group have written to their shared store about their failures.

    `hosts_store` says whether this process serves the store, which then ends with it.  No method
    raises an error if the store is gone.
    """

    store: "Store"
    rank: int
    local_rank: int
    world_size: int
    hosts_store: bool

    def post_error(self, text: str) -> None:
        """Let the other ranks read why this one stops."""
        with suppress(RuntimeError):
            self.store.set(f"error of rank {self.rank}", text)

    def read_error(self, rank: int) -> str | None:
        """Read the error that a rank has posted; None if it has posted none."""
        key = f"error of rank {rank}"
        with suppress(RuntimeError):
            if self.store.check([key]):
                return self.store.get(key).decode()
        return None

    def wait_until_all_stop(self, seconds: float) -> list[int]:
        """Record that this rank stops, and wait until the others do; return those that do not.

        If the store is gone, rank 0 is returned, because the store is on its machine.
        """
        try:
            self.store.set(f"rank {self.rank} stops", "")
            return self.wait_for_others("stops", seconds)
        except RuntimeError:
            return [0]

    def leave_store(self) -> None:
        """Stop using the store; the process that serves it first waits for the others to leave."""
        with suppress(RuntimeError):
            self.store.set(f"rank {self.rank} leaves", "")
            if self.hosts_store:
                self.wait_for_others("leaves", ANSWER_SECONDS)

    def wait_for_others(self, action: str, seconds: float) -> list[int]:
        """Wait until all other ranks have recorded an action; return those that have not."""
        deadline = time.monotonic() + seconds
        missing = [rank for rank in range(self.world_size) if rank != self.rank]
        while True:
            missing = [rank for rank in missing if not self.store.check([f"rank {rank} {action}"])]
            if not missing or time.monotonic() > deadline:
                return missing
            time.sleep(POLL_SECONDS)

    def explain_lost_rank(self) -> str:
        """Say which rank was lost, and its error if it has posted one."""
        if text := self.find_posted_error():
            return text
        silent = self.wait_until_all_stop(ANSWER_SECONDS if self.world_size > 2 else 0.0)
        if text := self.find_posted_error():
            return text
        lost = f"rank {silent[0]}" if len(silent) == 1 else "another rank of the run"
        return f"{lost} stopped or cannot be reached: {RESUME_ADVICE}"

    def find_posted_error(self) -> str:
        """Find the error of the first other rank that has posted one, as a sentence; else ""."""
        for rank in range(self.world_size):
            if rank != self.rank and (text := self.read_error(rank)) is not None:
                return f"rank {rank} stopped: {text}"
        return ""


def leave_after_failure(board: FailureBoard, error: BaseException) -> BaseException:
    """Leave the process group after `error`, tell the other ranks, and return the error to raise.

    If the connection to a rank was lost, returns a RankStoppedError, which quotes that rank's
    error.  If this rank itself failed, waits at most `TELL_SECONDS` for the others to read why.
    """
    with ignore_sigterm():  # torchrun sends it once another rank has ended
        if isinstance(error, RuntimeError) and CONNECTION_LOST_PATTERN.search(str(error)):
            # The frames of the failed operation hold the group.  Its connections must be closed, so
            # that ranks that wait for this one wake up, too.
            traceback.clear_frames(error.__traceback__)
            dist.destroy_process_group()
            error = RankStoppedError(board.explain_lost_rank())
        if isinstance(error, RankStoppedError):
            if dist.is_initialized():
                dist.destroy_process_group()
            board.wait_until_all_stop(ANSWER_SECONDS if board.hosts_store else 0.0)
        else:
            error = leave_after_own_failure(board, error)
        board.leave_store()
        return error


def leave_after_own_failure(board: FailureBoard, error: BaseException) -> BaseException:
    """Tell the other ranks why this one stops, and return the error to raise here."""
    text = describe_failure(error)
    board.post_error(text)
    dist.destroy_process_group()
    board.wait_until_all_stop(TELL_SECONDS)
    if isinstance(error, OSError):
        error = TrainingError(text)
    if isinstance(error, ResiduaError):
        # an error that all ranks make alike is printed once on each machine
        error.printed_by_every_rank = text != board.read_error(board.rank - board.local_rank)
    return error


def describe_failure(error: BaseException) -> str:
    """Describe an error on one line; an unexpected one begins with its type."""
    if isinstance(error, ResiduaError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


@contextmanager
def ignore_sigterm() -> Iterator[None]:
    """Ignore SIGTERM within the context, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler or signal.SIG_DFL)
