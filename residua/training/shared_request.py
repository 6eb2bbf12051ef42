"""Ranks that train together agree on when to stop, without waiting for each other at every step."""

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

EXCHANGE_SECONDS = 0.5  # between exchanges of whether a rank is asked to stop
FIRST_EXCHANGES = 10  # which happen at every call
RECENT_STEPS = 20  # of which the slowest says how many steps half a second has
MOST_STEPS_APART = 100  # a GPU's queue of steps would fill up, and its rank not notice a lost one
MOST_STREAMED_STEPS_APART = 10  # a disk or a server may suddenly be slower


class SharedRequest:
    """Whether `predicate` was true on any rank, asked at every step, exchanged twice a second.

    An exchange makes the ranks wait for each other, which costs many ranks more than a short step.
    So the calls that exchange are some steps apart: as many as rank 0 takes in half a second at the
    speed of its slowest recent step, but at most twice as many as the last time, and at most a
    hundred, or ten if images are decoded between steps (`is_streamed`).  Between them the answer is
    False.  All ranks exchange at the same calls, whatever their clocks say, because each exchange
    brings them the number of rank 0.
    """

    def __init__(
        self,
        predicate: Callable[[], bool],
        all_reduce_sum: Callable[[Tensor], Tensor],
        *,
        is_main: bool,
        is_streamed: bool,
    ) -> None:
        """`all_reduce_sum` sums a tensor over all ranks, and `is_main` says which one is rank 0."""
        self.predicate, self.all_reduce_sum, self.is_main = predicate, all_reduce_sum, is_main
        self.most_steps_apart = MOST_STREAMED_STEPS_APART if is_streamed else MOST_STEPS_APART
        self.is_requested = False
        self.exchanges, self.interval, self.calls = 0, 1, 0
        self.last_time = time.monotonic()
        self.seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    def __call__(self) -> bool:
        self.is_requested = self.is_requested or self.predicate()
        self.calls += 1
        now = time.monotonic()
        self.seconds.append(now - self.last_time)
        self.last_time = now
        if self.calls < self.interval:
            return False
        slowest = max(*self.seconds, 1e-6)
        wanted = int(min(EXCHANGE_SECONDS / slowest, 2 * self.interval))
        values = [int(self.is_requested), wanted if self.is_main else 0]
        requests, interval = self.all_reduce_sum(torch.tensor(values)).tolist()
        self.exchanges, self.calls = self.exchanges + 1, 0
        if self.exchanges >= FIRST_EXCHANGES:
            self.interval = min(max(interval, 1), self.most_steps_apart)
        return bool(requests)
