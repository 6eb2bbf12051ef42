"""Work on many files at once, in threads: Pillow and the system let go of Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

PROGRESS_BAR_MIN_ITEMS = 200  # files from which on a bar is shown
RESULTS_AHEAD_PER_THREAD = 8  # files that each thread may be ahead of who takes the results

X = TypeVar("X")
Y = TypeVar("Y")


def stream_in_threads(
    work: Callable[[X], Y], items: Iterable[X], progress_label: str
) -> Generator[Y]:
    """`work` on each item, in their order, with a bar where there are many; only a few results wait to be taken."""
    items = list(items)
    pending: deque[Future[Y]] = deque()
    with (
        ThreadPoolExecutor(count_available_cores()) as pool,
        tqdm(
            total=len(items),
            desc=progress_label,
            unit="file",
            disable=len(items) < PROGRESS_BAR_MIN_ITEMS,
        ) as bar,
    ):
        try:
            for i in range(len(items) + RESULTS_AHEAD_PER_THREAD * count_available_cores()):
                if i < len(items):
                    pending.append(pool.submit(work, items[i]))
                if pending and i >= RESULTS_AHEAD_PER_THREAD * count_available_cores():
                    yield pending.popleft().result()
                    bar.update()
        except BaseException:  # Ctrl-C: what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def map_in_threads(work: Callable[[X], Y], items: Iterable[X], progress_label: str) -> list[Y]:
    """All results of `work`."""
    return list(stream_in_threads(work, items, progress_label))


def count_available_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
