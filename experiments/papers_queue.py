"""Trains the runs of the papers' tables one after another until the time is up (for papers.py)."""

import gc
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from papers_jobs import Job
from papers_pool import STOPPED, train_in_processes, train_in_threads, train_one_by_one
from papers_records import FAILURE, Place, list_finished, read_failures, store_records

from residua.errors import DataError, Interrupted, ResiduaError, TrainingError
from residua.files import delete_path, write_text
from residua.record import MetricsRow, RunRecord
from residua.studies.gpu_threads import can_share_process
from residua.training.checkpoint import CheckpointPolicy
from residua.training.machine import set_up_machine
from residua.training.progress import TrainingProgress
from residua.training.run import catch_stop_signals, train_run

WRITING_SECONDS = 5.0  # kept free at the end, for checkpoints and records
START_SECONDS, START_SECONDS_PER_LAYER = 10.0, 0.02  # of a run: data, network, CUDA graph; guesses
STEPS_AHEAD = 8
SHOW_SECONDS = 15.0  # between two lines about a run
EVALUATIONS_AT_END = 2 * 22  # of 110,000 images in fp32, measured in evaluations of 5,000 in bf16
STEPS_AT_END = 600  # the same measured in steps of 128 images, which take three forward passes each
NO_TIME = "no time left to start it"


def now() -> float:
    return time.time()  # the same in all processes


@dataclass
class TimedProgress:
    """Says how a run goes, and decides when it stops so that it can be continued.

    A run stops `WRITING_SECONDS` before the deadline.  It also stops just before its last step if
    there is no time for the evaluation of the trained net.  Python runs at most `STEPS_AHEAD` steps
    ahead of a GPU: else the end would come only after hundreds of steps that wait there.
    """

    job: Job
    deadline: float
    stop_requested: Callable[[], bool]
    say: Callable[[str], None] = print
    total_steps: int = 0
    step: int = 0
    evaluation_seconds: float = 0.0
    begun: tuple[int, float] | None = None  # a step of this call and its time, without the start
    last_called: float = field(default_factory=now)
    last_shown: float = field(default_factory=now)
    waiting: deque[torch.cuda.Event] = field(default_factory=deque)

    def __call__(self, progress: TrainingProgress, line: MetricsRow | None) -> None:
        self.total_steps, self.step = progress.total_steps, progress.step
        self.wait_for_gpu()
        if line is not None:
            self.evaluation_seconds = now() - self.last_called
        self.last_called = now()
        if self.begun is None and (line is not None or self.last_called > self.last_shown + 1):
            self.begun = progress.step, self.last_called
        if progress.note:
            self.say(f"{self.job.name}: {progress.note}")
        if self.last_called - self.last_shown > SHOW_SECONDS:
            self.show(line)

    def wait_for_gpu(self) -> None:
        """Wait until the GPU has done all but the newest `STEPS_AHEAD` steps."""
        if not torch.cuda.is_initialized():
            return
        event = torch.cuda.Event()
        event.record()
        self.waiting.append(event)
        if len(self.waiting) > STEPS_AHEAD:
            self.waiting.popleft().synchronize()

    @property
    def step_seconds(self) -> float:
        """Seconds of a step in this call, evaluations included; 0 at its beginning."""
        if self.begun is None or self.step == self.begun[0]:
            return 0.0
        return (self.last_called - self.begun[1]) / (self.step - self.begun[0])

    def show(self, line: MetricsRow | None) -> None:
        self.last_shown = now()
        errors = ""
        if line is not None and line["dev_error"] is not None:
            errors = f", dev error {100 * line['dev_error']:.2f} %"
        rate = ""
        if self.step_seconds:
            needed = (self.total_steps - self.step) * self.step_seconds
            rate = f", {1 / self.step_seconds:.1f} steps/s, {needed / 60:.1f} min to its end"
        left = (self.deadline - now()) / 60
        self.say(
            f"[{left:.1f} min left] {self.job.name}: step {self.step:,} of {self.total_steps:,}"
            f"{errors}{rate}"
        )

    def should_stop(self) -> bool:
        """Whether there is no time for another step, or for what follows the last step."""
        left = self.deadline - now() - WRITING_SECONDS - STEPS_AHEAD * self.step_seconds
        if self.total_steps and self.step == self.total_steps - 1:
            by_steps = STEPS_AT_END * self.step_seconds
            left -= EVALUATIONS_AT_END * self.evaluation_seconds or by_steps
        return left < 0 or self.stop_requested()


def train_job(
    job: Job,
    place: Place,
    deadline: float,
    say: Callable[[str], None] = print,
    stop_also: Callable[[], bool] = lambda: False,
) -> str:
    """Train a run until it is finished or the time is up; return "" if it is finished.

    It also stops after Ctrl-C, or SIGTERM, in the main thread, and once `stop_also()` is true.
    Otherwise returns why not.  The model folders of a finished run are deleted.  A run that failed
    is not tried again: the reason is written to its folder.  Lack of GPU memory is no failure.
    """
    if stop_also():
        raise Interrupted(STOPPED)
    folder = place.folder_of(job)
    start_seconds = START_SECONDS + START_SECONDS_PER_LAYER * job.layers
    if deadline - now() < start_seconds + WRITING_SECONDS:
        return NO_TIME
    free_memory()
    with catch_stop_signals() as caught_signal:

        def stop_requested() -> bool:
            return caught_signal() or stop_also()

        progress = TimedProgress(job, deadline, stop_requested, say)
        try:
            train_run(
                job.run,
                folder,
                set_up_machine(),
                data_dir=place.data_dir,
                resume=True,
                checkpoint_policy=CheckpointPolicy(keep_last=1),
                on_progress=progress,
                should_stop=progress.should_stop,
            )
        except Interrupted:
            if stop_requested():
                raise
            return f"stopped at step {progress.step:,} of {progress.total_steps:,}; to be continued"
        except TrainingError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                return f"not trained: {error}"
            if progress.total_steps:  # it had begun
                write_text(folder / FAILURE, str(error))
            return f"failed: {error}"
        except DataError:  # no run can be trained
            raise
        except ResiduaError as error:
            return f"not trained: {error}"
        except Exception:  # e.g. of CUDA; the other runs may do better
            return f"not trained: {traceback.format_exc()}"
        finally:
            free_memory()
    for model in ("last", "best"):
        delete_path(folder / model)
    return ""


def free_memory() -> None:
    """Free the memory of the run before, so that the next one finds it free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def train_jobs(
    jobs: list[Job],
    place: Place,
    deadline: float,
    at_once: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Train the runs in order until the time is up, and store each finished one's record."""
    done, failed = set(list_finished(place)), set(read_failures(place))
    waiting = [job for job in jobs if job.run.id not in done and job.name not in failed]
    say(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished already, or failed")
    for job, outcome in train_each(waiting, place, deadline, at_once, say):
        if outcome == NO_TIME:
            continue
        left = (deadline - now()) / 60
        say(f"[{left:.1f} min left] {job.name}: {outcome or describe_result(place, job)}")
        if not outcome or outcome.startswith("failed"):
            store_records(place)


def train_each(
    jobs: list[Job], place: Place, deadline: float, at_once: int, say: Callable[[str], None]
) -> Iterator[tuple[Job, str]]:
    """Train the runs, `at_once` of them at a time; yield each with its outcome.

    On a GPU they run in threads, each with its own stream, as those of a study; runs that draw from
    the generator of the process come alone, after the others.  On a CPU they run in processes.
    """
    train = partial(train_job, place=place, deadline=deadline)
    if at_once == 1:
        yield from train_one_by_one(partial(train, say=say), jobs)
    elif torch.cuda.is_available():
        sharing = [job for job in jobs if can_share_process(job.run)]
        alone = [job for job in jobs if job not in sharing]
        yield from train_in_threads(partial(train, say=say), sharing, at_once)
        yield from train_one_by_one(partial(train, say=say), alone)
    else:
        yield from train_in_processes(train, jobs, at_once)


def describe_result(place: Place, job: Job) -> str:
    """Describe the result of a finished run in one line."""
    result = RunRecord(place.folder_of(job)).read_result() or {}
    errors = ", ".join(
        f"{split} error {100 * float(str(result[f'{split}_error'])):.2f} %"
        for split in ("train", "test")
    )
    return f"finished, {errors}, {float(str(result['seconds'])):.0f} s"
