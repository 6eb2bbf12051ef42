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

from residua.deploy.service import Service
from residua.errors import ResiduaError, UsageError

HEADERS_MOST = 16_384  # bytes
CONNECTIONS_MOST = 1024
GOODBYE = 15  # seconds that requests have to end in once the server is asked to stop; our choice


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    UsageError for a port that cannot be, ResiduaError where it is taken, or the host is none of this machine's.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is impossible: give a number up to 65535, or 0 for any that is free")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ResiduaError(f"port {port} of {host} cannot be used: {reason.lower()}; choose another --port or --host") from None


class Server(uvicorn.Server):
    """Asked to stop by Ctrl-C or SIGTERM it answers what it has accepted, and returns; asked twice, it returns at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # which alone hears signals
            yield
            return
        before = {which: signal.signal(which, self.stop) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def stop(self, which: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def server(service: Service) -> Server:
    """What runs the service's application."""
    settings = uvicorn.Config(
        service.application, http="h11", ws="none", log_level="warning", access_log=False, server_header=False,
        h11_max_incomplete_event_size=HEADERS_MOST, limit_concurrency=CONNECTIONS_MOST, timeout_keep_alive=15,
        timeout_graceful_shutdown=GOODBYE,
    )  # fmt: skip
    return Server(settings)


def serve(service: Service, listener: socket.socket, tell: Callable[[str], None]) -> None:
    """Answer requests on `listener` until asked to stop, once `tell` was told the address."""
    host, port = listener.getsockname()[:2]
    tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    asyncio.run(server(service).serve(sockets=[listener]))
