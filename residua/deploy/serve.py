"""Run a service until somebody stops it."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from residua.deploy.service import PredictionService
from residua.errors import ResiduaError, UsageError

MAX_HEADER_BYTES = 16_384  # bytes
MAX_CONNECTIONS = 1024
SHUTDOWN_SECONDS = (
    15  # seconds that requests have to end in once the server is asked to stop; our choice
)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    UsageError for a port that cannot be, ResiduaError where it is taken, or the host is none of this machine's.
    """
    if not 0 <= port <= 65535:
        raise UsageError(
            f"--port {port} is impossible: give a number up to 65535, or 0 for any that is free"
        )
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ResiduaError(
            f"port {port} of {host} cannot be used: {reason.lower()}; choose another --port or --host"
        ) from None


class GracefulServer(uvicorn.Server):
    """Asked to stop by Ctrl-C or SIGTERM it answers what it has accepted, and returns; asked twice, it returns at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # which alone hears signals
            yield
            return
        previous_handlers = {
            signal_number: signal.signal(signal_number, self.request_stop)
            for signal_number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for which, handler in previous_handlers.items():
                signal.signal(which, handler)

    def request_stop(self, signal_number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def make_server(service: PredictionService) -> GracefulServer:
    """What runs the service's application."""
    settings = uvicorn.Config(
        service.application,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return GracefulServer(settings)


def serve_until_stopped(
    service: PredictionService, listener: socket.socket, on_listening: Callable[[str], None]
) -> None:
    """Answer requests on `listener` until asked to stop, once `tell` was told the address."""
    host, port = listener.getsockname()[:2]
    on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    asyncio.run(make_server(service).serve(sockets=[listener]))
