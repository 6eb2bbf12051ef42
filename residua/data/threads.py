"""Work on many files at once, in threads: Pillow and the system let go of Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

LONG = 200  # files from which on a bar is shown
AHEAD = 8  # files that each thread may be ahead of who takes the results

X = TypeVar("X")
Y = TypeVar("Y")


def streamed(work: Callable[[X], Y], items: Iterable[X], what: str) -> Generator[Y]:
    """`work` on each item, in their order, with a bar where there are many; only a few results wait to be taken."""
    items = list(items)
    waiting: deque[Future[Y]] = deque()
    with ThreadPoolExecutor(cores()) as pool, tqdm(total=len(items), desc=what, unit="file", disable=len(items) < LONG) as bar:
        try:
            for i in range(len(items) + AHEAD * cores()):
                if i < len(items):
                    waiting.append(pool.submit(work, items[i]))
                if waiting and i >= AHEAD * cores():
                    yield waiting.popleft().result()
                    bar.update()
        except BaseException:  # Ctrl-C: what waits is not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def mapped(work: Callable[[X], Y], items: Iterable[X], what: str) -> list[Y]:
    """All results of `work`."""
    return list(streamed(work, items, what))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
