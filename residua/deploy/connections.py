"""Guards the connections of a server: a deadline for each phase, and a limit on their number.

This is own code on top of uvicorn's HTTP/1.1 protocol, because no Python server of 2026 has all of
it.  uvicorn 0.54 lets a request arrive as slowly as it likes: its `timeout_keep_alive` ends with
the first byte, and its `limit_concurrency` refuses honest clients when slow ones fill it.
hypercorn 0.18 and granian 2.8 have a deadline for the headers, but none for bodies, and no limit
that closes slow connections first; the `channel_timeout` of waitress 3.0 begins anew with every
byte, and at its `connection_limit` it accepts nobody.  Middleware sees complete headers only.
"""

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any, Literal

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from residua.deploy.limits import ServerLimits
from residua.deploy.metrics import ServerMetrics

if sys.platform != "win32":
    import resource

MAX_HEADER_BYTES = 16_384
MAX_CONNECTIONS = 2048
RESERVED_FILES = 128  # open files that are not connections: libraries, the listener, pipes
DISCARD_SECONDS = 2.0  # for the rest of a body that is refused, so that its client reads the answer
FLUSH_SECONDS = 10.0  # for a client to read an answer to its end

Phase = Literal["head", "body", "answer", "discard", "idle", "closing"]
"""What a connection waits for.

head     the rest of a request's headers
body     the rest of its body
answer   the application
discard  the rest of a body that is answered already
idle     the next request
closing  the client, which must read the answer
"""


class ConnectionGuard:
    """State shared by the connections of a server: limits, counts, and those that wait."""

    def __init__(
        self, limits: ServerLimits, metrics: ServerMetrics, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.metrics, self.max_connections = metrics, max_connections
        self.seconds_by_phase: dict[Phase, float] = {
            "head": limits.head_timeout_seconds,
            "body": limits.timeout_seconds + FLUSH_SECONDS,  # the service itself answers before
            "answer": limits.timeout_seconds + FLUSH_SECONDS,
            "discard": DISCARD_SECONDS,
            "closing": FLUSH_SECONDS,
        }
        # Dictionaries as ordered sets: the connection that has waited the longest is the first.
        self.without_request: dict[GuardedConnection, None] = {}
        self.with_unfinished_body: dict[GuardedConnection, None] = {}

    def close_longest_waiting(self) -> bool:
        """Close the connection that has waited longest for its client; False if none waits.

        Connections whose request headers are incomplete are closed first.
        """
        for waiting in (self.without_request, self.with_unfinished_body):
            if waiting:
                next(iter(waiting)).shed()
                return True
        return False


class GuardedConfig(uvicorn.Config):
    """uvicorn's settings, with the guard of the connections."""

    def __init__(self, app: ASGIApp, guard: ConnectionGuard, **settings: Any) -> None:
        super().__init__(
            app,
            http=GuardedConnection,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            **settings,
        )
        self.guard = guard


class GuardedConnection(H11Protocol):
    """One connection, which is closed if its client or the application exceeds a deadline."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, GuardedConfig)
        self.guard = config.guard
        self.phase: Phase | None = None
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.guard.metrics.open_connections += 1
        if (
            len(self.connections) > self.guard.max_connections
            and not self.guard.close_longest_waiting()
        ):
            self.shed()
        else:
            self.enter_phase("head")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.guard.metrics.open_connections -= 1
        self.leave_phase()

    def data_received(self, data: bytes) -> None:
        if self.phase == "idle":
            self.enter_phase("head")
        super().data_received(data)
        phase = self.find_phase()
        self.enter_phase("head" if phase == "idle" else phase)  # after an incomplete empty line

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise the next request has begun already
            self.cycle.body = bytearray()
        self.enter_phase(self.find_phase())

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.enter_phase(self.find_phase())

    def shutdown(self) -> None:
        if self.phase == "closing":
            self.transport.abort()
        else:
            super().shutdown()
            self.enter_phase(self.find_phase())

    def find_phase(self) -> Phase:
        """Find the connection's phase from the states of its parser and its request."""
        is_answered = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            return "closing"
        if self.conn.their_state is h11.SEND_BODY:
            return "discard" if is_answered else "body"
        if not is_answered:
            return "answer"
        return "head" if self.conn.trailing_data[0] else "idle"

    def enter_phase(self, phase: Phase) -> None:
        """Start the phase's deadline, unless the connection is in the phase already."""
        if phase == self.phase:
            return
        self.leave_phase()
        self.phase = phase
        if phase == "body":
            self.guard.with_unfinished_body[self] = None
        elif phase != "answer":
            self.guard.without_request[self] = None
        if seconds := self.guard.seconds_by_phase.get(phase):  # uvicorn itself ends "idle"
            self.deadline = self.loop.call_later(seconds, self.end_phase)

    def leave_phase(self) -> None:
        self.guard.without_request.pop(self, None)
        self.guard.with_unfinished_body.pop(self, None)
        if self.deadline is not None:
            self.deadline.cancel()

    def end_phase(self) -> None:
        """Close the connection at the end of its phase's deadline."""
        if self.phase == "head":
            seconds = self.guard.seconds_by_phase["head"]
            self.refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the request's headers did not arrive within {seconds:g} seconds",
                "head_timeout",
            )
        elif self.phase == "discard":
            self.transport.close()
            self.enter_phase("closing")
        else:
            self.transport.abort()

    def shed(self) -> None:
        """Close the connection at once, because there are too many."""
        self.refuse(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the server has too many connections ({self.guard.max_connections}): try again in a "
            "second",
            "connection_limit",
        )
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not valid HTTP; uvicorn's protocol calls this method."""
        self.refuse(
            HTTPStatus.BAD_REQUEST,
            f"the request is not valid HTTP, or its headers exceed {MAX_HEADER_BYTES:,} bytes",
            "invalid_http",
        )

    def refuse(self, status: HTTPStatus, message: str, reason: str) -> None:
        """Answer a request that the application does not answer, and close the connection.

        A client gets no answer if it does not wait for one, or if it is already being answered.
        """
        self.guard.metrics.count_refusal(reason)
        is_open = self.cycle is not None and not self.cycle.response_complete
        is_silent = not self.conn.trailing_data[0] and self.conn.their_state is h11.IDLE
        if is_open and self.cycle.response_started:
            self.transport.abort()
        elif self.phase in (None, "body", "answer") or (self.phase == "head" and not is_silent):
            self.transport.write(self.format_refusal(status, message))
        if is_open:  # the application must not answer any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self.enter_phase("closing")

    def format_refusal(self, status: HTTPStatus, message: str) -> bytes:
        """Format an answer with a JSON error message as bytes, in the same form as the service."""
        content = json.dumps({"error": message}).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        return head + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + content


def raise_open_file_limit(wanted_connections: int = MAX_CONNECTIONS) -> int:
    """Raise this process's limit of open files if it is too low for `wanted_connections`.

    Returns the number of connections that the limit allows, at most `wanted_connections`.
    """
    if sys.platform == "win32":
        return wanted_connections
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted_files = wanted_connections + RESERVED_FILES
    if soft_limit == resource.RLIM_INFINITY or soft_limit >= wanted_files:
        return wanted_connections
    if hard_limit != resource.RLIM_INFINITY:
        wanted_files = min(wanted_files, hard_limit)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted_files, hard_limit))
    except (OSError, ValueError):  # a sandbox may forbid it
        wanted_files = soft_limit
    return max(wanted_files - RESERVED_FILES, 1)
