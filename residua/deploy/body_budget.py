"""Bounds the memory that the bodies of all requests take together."""

import asyncio
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

TRIM_BYTES = 64_000_000  # memory of bodies that is worth returning to the system; our choice
TRIM_DELAY_SECONDS = 1.0  # until the requests whose bodies are evicted have ended


class BodyEvictedError(Exception):
    """A request body was evicted from the budget because other requests need the memory."""


class BodyShare:
    """The bytes of one body that count towards a budget."""

    def __init__(self, budget: "BodyBudget") -> None:
        self.budget = budget
        self.size = 0
        self.started_at = monotonic()
        self.is_evicted = False
        self.arrival: asyncio.Timeout | None = None  # set while the body arrives

    def add_bytes(self, count: int) -> None:
        """Count `count` more bytes.  Raises BodyEvictedError if they do not fit into the budget."""
        if not self.is_evicted:
            self.budget.make_room(self, count)
        if self.is_evicted:
            raise BodyEvictedError
        self.size += count
        self.budget.used_bytes += count

    @contextmanager
    def allow_eviction(self, arrival: asyncio.Timeout) -> Iterator[None]:
        """Let other bodies evict this one inside the context, which ends the timeout `arrival`."""
        self.arrival = arrival
        self.budget.arriving.add(self)
        try:
            yield
        finally:
            self.budget.arriving.discard(self)
            self.arrival = None

    def evict(self) -> None:
        """Free the bytes, and end the wait for more of them."""
        self.is_evicted = True
        self.budget.arriving.discard(self)
        self.free_bytes()
        if self.arrival is not None and not self.arrival.expired():
            self.arrival.reschedule(asyncio.get_running_loop().time())

    def free_bytes(self) -> None:
        self.budget.free_bytes(self.size)
        self.size = 0

    def count_byte_seconds(self) -> float:
        """Return the product of the bytes and the time since the body began to arrive."""
        return self.size * (monotonic() - self.started_at)


class BodyBudget:
    """The bytes that request bodies take, and their limit.

    When the limit is reached, the arriving body that has held the most bytes for the longest time
    (bytes times seconds) is evicted.  So bodies that never end make room for small ones; refusing
    newcomers instead would let a few clients keep everyone else out.  Bodies that have arrived are
    never evicted: a newcomer is refused if they fill the budget.

    Not thread-safe: it belongs to one event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.most_used_bytes = 0  # since memory was last returned to the system
        self.arriving: set[BodyShare] = set()

    @contextmanager
    def open_share(self) -> Iterator[BodyShare]:
        """Yield the share of a new body; its bytes are free again at the end of the context."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            share.free_bytes()

    def free_bytes(self, count: int) -> None:
        """Free the bytes of a body; after many, also return them to the system."""
        self.most_used_bytes = max(self.most_used_bytes, self.used_bytes)
        self.used_bytes -= count
        if self.most_used_bytes > max(TRIM_BYTES, 2 * self.used_bytes):
            self.most_used_bytes = 0
            asyncio.get_running_loop().call_later(TRIM_DELAY_SECONDS, return_free_memory)

    def make_room(self, newcomer: BodyShare, count: int) -> None:
        """Evict request bodies until `count` more bytes fit, even the one that needs them."""
        while self.used_bytes + count > self.max_bytes:
            heaviest = max(self.arriving, key=BodyShare.count_byte_seconds, default=newcomer)
            if not heaviest.size:
                heaviest = newcomer
            heaviest.evict()
            if heaviest is newcomer:
                return


def return_free_memory() -> None:
    """Return the free memory of this process to the system, where the C library can.

    glibc keeps freed memory: 260 MB of a full budget stayed resident.  Returning it takes 20 ms.
    """
    # other C libraries have no such function, and Windows has no `CDLL(None)`
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
