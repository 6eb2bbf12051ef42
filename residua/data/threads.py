"""Work on many files in parallel threads, with a progress bar.

Threads suffice, because decoding in Pillow and reading files release Python's global lock.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock, local
from typing import TypeVar

from tqdm import tqdm

PROGRESS_BAR_MIN_ITEMS = 200  # with fewer items no bar is shown
RESULTS_AHEAD_PER_THREAD = 8  # results that may wait for the consumer, per thread

X = TypeVar("X")
Y = TypeVar("Y")
thread_state = local()


class StopEvent(Event):
    """An event that ends long waits; when it is set, it also closes what threads read from."""

    def __init__(self) -> None:
        super().__init__()
        self.closers_lock = Lock()
        self.closers: list[Callable[[], None]] = []

    def set(self) -> None:
        """Set the event, and close what threads read from, such as the sockets of servers."""
        super().set()
        with self.closers_lock:
            for close in self.closers:
                close()

    @contextmanager
    def closing(self, close: Callable[[], None]) -> Iterator[None]:
        """Inside the context, call `close` when the event is set, or at once if it is."""
        with self.closers_lock:
            self.closers.append(close)
            if self.is_set():
                close()
        try:
            yield
        finally:
            with self.closers_lock:
                self.closers.remove(close)


@contextmanager
def stop_waiting_at(event: StopEvent) -> Iterator[None]:
    """Let `event` end the long waits of this thread, such as those for a server."""
    before = getattr(thread_state, "stop_event", None)
    thread_state.stop_event = event
    try:
        yield
    finally:
        thread_state.stop_event = before


def get_stop_event() -> StopEvent:
    """Return the event that ends the long waits of this thread; one never set if there is none."""
    return getattr(thread_state, "stop_event", None) or StopEvent()


def stream_in_threads(
    work: Callable[[X], Y], items: Iterable[X], progress_label: str, threads: int = 0
) -> Generator[Y]:
    """Yield `work(item)` for each item, in order, computed by `threads`, or one for each core.

    Only a few results per thread are computed ahead, so that memory does not grow with the number
    of items.  When the generator is closed or interrupted, pending items are not begun, and those
    that wait for a server are given up.
    """
    is_stopped = StopEvent()

    def work_until_stopped(item: X) -> Y:
        with stop_waiting_at(is_stopped):
            return work(item)

    items = list(items)
    pending: deque[Future[Y]] = deque()
    threads = threads or count_available_cores()
    max_pending = RESULTS_AHEAD_PER_THREAD * threads
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(items),
            desc=progress_label,
            unit="file",
            disable=len(items) < PROGRESS_BAR_MIN_ITEMS,
        ) as bar,
    ):
        try:
            for i in range(len(items) + max_pending):
                if i < len(items):
                    pending.append(pool.submit(work_until_stopped, items[i]))
                if pending and i >= max_pending:
                    yield pending.popleft().result()
                    bar.update()
        except BaseException:  # includes Ctrl-C and the closing of the generator
            is_stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def map_in_threads(
    work: Callable[[X], Y], items: Iterable[X], progress_label: str, threads: int = 0
) -> list[Y]:
    """Compute `work(item)` for each item in threads; return the results in order."""
    return list(stream_in_threads(work, items, progress_label, threads))


def count_decoding_threads() -> int:
    """Count the threads with which each of this machine's processes decodes, at least 1.

    Processes that torchrun started on one machine share its cores.
    """
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(count_available_cores() // max(int(processes) if processes.isdigit() else 1, 1), 1)


def count_available_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
