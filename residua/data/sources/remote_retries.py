"""Requests to servers that are made again after errors that may pass, until nobody needs them."""

import os
import random
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from threading import Lock
from typing import ClassVar, TypeVar
from urllib.parse import urlsplit

from residua.data.sources.remote_transport import PassingError
from residua.data.sources.remote_urls import show_url
from residua.data.threads import get_stop_event
from residua.downloads import tell_user
from residua.errors import DataError, UsageError

PATIENCE_VARIABLE = "RESIDUA_REMOTE_SECONDS"
DEFAULT_PATIENCE = 300.0  # seconds without progress, after which a read is given up
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0  # seconds between attempts
PROGRESS_BYTES = 2**16  # that an attempt must bring to count as progress
NOTE_SECONDS = 60.0  # between notes about a server
STOP_SECONDS = 0.2  # after which a thread that waits for another looks whether it is stopped

T = TypeVar("T")
last_notes: dict[str, float] = {}


class StoppedReadError(DataError):
    """A read was given up because its result is not needed any more."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{show_url(url)} was not read to its end: the command was stopped")


class SharedReads:
    """Reads that are under way; whoever needs one meanwhile gets its result, or its error."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.under_way: dict[Hashable, Future[bytes]] = {}

    def read(self, key: tuple[str, int, int], work: Callable[[], bytes]) -> bytes:
        """Return `work()`, or what another thread that reads `key` gets."""
        while True:
            with self.lock:
                other = self.under_way.get(key)
                mine: Future[bytes] = Future()
                if other is None:
                    self.under_way[key] = mine
            if other is None:
                return self.do(key, mine, work)
            while not wait([other], STOP_SECONDS).done:
                if get_stop_event().is_set():
                    raise StoppedReadError(key[0])
            error = other.exception()
            if error is None:
                return other.result()
            if isinstance(error, Exception) and not isinstance(
                error, StoppedReadError | PassingError
            ):
                raise error
            # the other one was stopped, or would not try again, and this one is not stopped

    def try_reading(self, key: tuple[str, int, int], work: Callable[[], bytes]) -> None:
        """Call `work()` unless another thread reads `key`."""
        with self.lock:
            if key in self.under_way:
                return
            mine = self.under_way[key] = Future()
        self.do(key, mine, work)

    def do(self, key: Hashable, mine: Future[bytes], work: Callable[[], bytes]) -> bytes:
        """Return `work()`, and give its result or its error to those who wait."""
        try:
            content = work()
        except BaseException as error:  # Ctrl-C, too
            self.forget(key)
            mine.set_exception(error)
            raise
        self.forget(key)
        mine.set_result(content)
        return content

    def forget(self, key: Hashable) -> None:
        with self.lock:
            del self.under_way[key]


shared_reads = SharedReads()


class WholeFileClaim:
    """The right to read a whole file from a server that ignores ranges; one thread has it."""

    locks: ClassVar[dict[str, Lock]] = {}

    def __init__(self, url: str) -> None:
        self.url, self.is_held = url, False
        self.lock = self.locks.setdefault(url, Lock())

    def take(self) -> bool:
        """Take the right unless another thread has it; return whether it is held now."""
        self.is_held = self.is_held or self.lock.acquire(blocking=False)
        return self.is_held

    def wait(self) -> None:
        """Wait until the right is held; StoppedReadError once nobody needs the result."""
        while not self.is_held:
            if get_stop_event().is_set():
                raise StoppedReadError(self.url)
            self.is_held = self.lock.acquire(timeout=STOP_SECONDS)

    def close(self) -> None:
        """Give the right to the next thread."""
        if self.is_held:
            self.is_held = False
            self.lock.release()


def try_again(
    url: str,
    work: Callable[[], T],
    count_bytes: Callable[[], int] = lambda: 0,
    patience: float | None = None,
) -> T:
    """Return `work()`; after errors that may pass it is called again, with growing pauses.

    `count_bytes` says how many bytes have come: while they grow, the time limit begins anew.
    Raises DataError when it has passed, and StoppedReadError once nobody needs the result.
    """
    patience = read_patience() if patience is None else patience
    deadline, pause, seen = time.monotonic() + patience, FIRST_PAUSE, count_bytes()
    while True:
        if get_stop_event().is_set():
            raise StoppedReadError(url)
        try:
            return work()
        except PassingError as error:
            if count_bytes() >= seen + PROGRESS_BYTES:
                deadline, pause = time.monotonic() + patience, FIRST_PAUSE
                seen = count_bytes()
            wait = max(pause * random.uniform(0.5, 1.0), min(error.wait, LONGEST_PAUSE))
            if time.monotonic() + wait > deadline:
                raise DataError(
                    f"{show_url(url)} cannot be read: {error}, for {patience:.0f} seconds; start "
                    "the same command again when the server answers, a run with --resume"
                ) from error
            note_trouble(url, error)
            if get_stop_event().wait(wait):
                raise StoppedReadError(url) from error
            pause = min(2 * pause, LONGEST_PAUSE)


def read_patience() -> float:
    """Return the seconds for which reads are tried again; UsageError if the setting is invalid."""
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        seconds = float(text or DEFAULT_PATIENCE)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{PATIENCE_VARIABLE}={text} is invalid: give a number of seconds")
    return seconds


def note_trouble(url: str, error: PassingError) -> None:
    """Say that a server is asked again, at most once a minute for each server."""
    server, now = urlsplit(url).netloc, time.monotonic()
    if now - last_notes.get(server, -NOTE_SECONDS) >= NOTE_SECONDS:
        last_notes[server] = now
        tell_user(f"{show_url(url)}: {error}; it is tried again")
