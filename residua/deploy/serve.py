"""Runs a prediction service on a socket until SIGINT or SIGTERM."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from residua.deploy.access import SECURITY_HEADERS
from residua.deploy.connections import ConnectionGuard, GuardedConfig, raise_open_file_limit
from residua.deploy.service import PredictionService
from residua.errors import ResiduaError, UsageError

LISTEN_BACKLOG = 512
KEEP_ALIVE_SECONDS = 15
SHUTDOWN_SECONDS = 15  # time that accepted requests get to finish after a stop signal; our choice


def open_listener(host: str, port: int) -> socket.socket:
    """Open a socket that accepts connections; port 0 takes any free port.

    Raises UsageError for a port outside 0 to 65535, and ResiduaError if the port is in use or
    `host` is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise UsageError(
            f"--port {port} is invalid: give a number up to 65535, or 0 for any free port"
        )
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        # Errors of name resolution have negative numbers, which `strerror` does not know.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ResiduaError(
            f"the server cannot listen on port {port} of {host}: {reason.lower()}; "
            "choose another --port or --host"
        ) from None


class GracefulServer(uvicorn.Server):
    """A uvicorn server that answers open requests before it stops on SIGINT (Ctrl-C) or SIGTERM.

    A second signal stops the server immediately.  uvicorn's own handler would raise the signal
    again after the shutdown, and the command would end with an error.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows signal handlers in the main thread alone
            return
        previous_handlers = {
            signal_number: signal.signal(signal_number, self.request_stop)
            for signal_number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for signal_number, handler in previous_handlers.items():
                signal.signal(signal_number, handler)

    def request_stop(self, signal_number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first asks for a graceful stop, the second forces the exit."""
        self.force_exit = self.should_exit
        self.should_exit = True


def make_unbound_server(service: PredictionService) -> GracefulServer:
    """Make the HTTP server of a service, which is not bound to an address yet.

    A `ConnectionGuard` limits its connections, and all answers have `SECURITY_HEADERS`.
    """
    guard = ConnectionGuard(service.limits, service.metrics, raise_open_file_limit())
    settings = GuardedConfig(
        service.application,
        guard,
        ws="none",
        log_level="error",  # otherwise every malformed request of a stranger would be logged
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list(SECURITY_HEADERS.items()),
        backlog=LISTEN_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return GracefulServer(settings)


def serve_until_stopped(
    service: PredictionService, listener: socket.socket, on_listening: Callable[[str], None]
) -> None:
    """Answer requests on `listener` until SIGINT or SIGTERM.

    `on_listening` is called with the URL before the server starts.
    """
    host, port = listener.getsockname()[:2]
    on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    asyncio.run(make_unbound_server(service).serve(sockets=[listener]))
