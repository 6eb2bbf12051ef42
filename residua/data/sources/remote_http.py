"""Open addresses over HTTP with connections that are kept for the next request.

A new connection takes two to four round trips, and the answer, a photograph, only one.  Proxies and
redirects are left to `open_url`, which knows them.
"""

import atexit
import os
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BytesIO
from netrc import NetrcParseError, netrc
from threading import Lock
from urllib.error import HTTPError
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from residua.data.sources.remote_urls import split_query
from residua.data.threads import get_stop_event
from residua.downloads import make_ssl_context, open_url, quote_url, tell_user

IDLE_SECONDS = 20.0  # after which a connection is not used again; servers close them
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
MAX_IDLE = 64  # connections to one server
Server = tuple[int, str, str]  # this process, since a child must not use its parent's connections


class ConnectionPool:
    """Connections that wait for their next request, by server."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.idle: dict[Server, list[tuple[float, HTTPConnection]]] = {}

    def take(self, server: Server) -> HTTPConnection | None:
        """Take the connection that was used last; None if there is none that is young."""
        with self.lock:
            waiting = self.idle.setdefault(server, [])
            while waiting:
                since, connection = waiting.pop()
                if time.monotonic() - since < IDLE_SECONDS:
                    return connection
                connection.close()
        return None

    def give_back(self, server: Server, connection: HTTPConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self.lock:
            waiting = self.idle.setdefault(server, [])
            if len(waiting) < MAX_IDLE:
                waiting.append((time.monotonic(), connection))
                return
        connection.close()

    def close_idle(self) -> None:
        """Close all connections that wait."""
        with self.lock:
            for waiting in self.idle.values():
                for _, connection in waiting:
                    connection.close()
            self.idle.clear()


pool = ConnectionPool()
atexit.register(pool.close_idle)


@contextmanager
def open_remote_url(url: str, byte_range: str, timeout: float) -> Iterator[HTTPResponse]:
    """Open a URL, with the name and the password that ~/.netrc has for its server.

    Raises HTTPError for a status of 400 or more, and what `open_url` raises.
    """
    parts = urlsplit(quote_url(url))
    login = find_login(parts)
    if not uses_proxy(parts):
        server = os.getpid(), parts.scheme.lower(), parts.netloc
        headers = {"User-Agent": "residua", "Range": f"bytes={byte_range}"}
        if login:
            headers["Authorization"] = f"Basic {b64encode(':'.join(login).encode()).decode()}"
        with ask_server(server, parts, headers, timeout) as response:
            if not 300 <= response.status < 400:
                if response.status >= 400:
                    response.read(2**16)  # so that the connection can be kept
                    reason = response.reason
                    raise HTTPError(url, response.status, reason, response.headers, BytesIO())
                yield response
                return
    if login:
        userinfo = ":".join(quote(text, safe="") for text in login)
        url = parts._replace(netloc=f"{userinfo}@{parts.netloc}").geturl()
    with closing(open_url(url, byte_range=byte_range, timeout=timeout)) as response:
        yield response


@contextmanager
def ask_server(
    server: Server, parts: SplitResult, headers: dict[str, str], timeout: float
) -> Iterator[HTTPResponse]:
    """Send a request on a kept connection, or on a new one if the server has closed it.

    An answer that was read to its end leaves the connection for the next request.  Once the
    connection stands and nobody needs the answer, the thread that waits for it gets an error.
    """
    target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    while True:
        kept = pool.take(server)
        connection = kept or connect(parts, timeout)
        with get_stop_event().closing(partial(shut_down, connection.sock)):
            try:
                connection.request("GET", target, headers=headers)
                response = connection.getresponse()
            except (OSError, HTTPException):
                connection.close()
                if kept is None:
                    raise
                continue
            try:
                yield response
                return
            finally:
                if response.isclosed() and not response.will_close:
                    pool.give_back(server, connection)
                else:
                    response.close()
                    connection.close()


def connect(parts: SplitResult, timeout: float) -> HTTPConnection:
    """Open a connection to the server of a URL."""
    address = parts.hostname or "", parts.port
    is_secure = parts.scheme.lower() == "https"
    connection = (
        HTTPSConnection(*address, timeout=timeout, context=make_ssl_context())
        if is_secure
        else HTTPConnection(*address, timeout=timeout)
    )
    connection.connect()
    return connection


def shut_down(connected: socket.socket) -> None:
    """Wake all threads that wait for a socket; without TLS's farewell, which could wait, too."""
    with suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def uses_proxy(parts: SplitResult) -> bool:
    """Return whether the usual environment variables name a proxy for a URL."""
    has_proxy = parts.scheme.lower() in getproxies()
    return has_proxy and not proxy_bypass(parts.hostname or "")


def find_login(parts: SplitResult) -> tuple[str, str] | None:
    """Return the name and the password that ~/.netrc has for the server of a URL.

    They go only to a server that is named there, over https or within this machine, and not beside
    an address that is signed.
    """
    host = parts.hostname or ""
    is_private = parts.scheme.lower() == "https" or host in LOOPBACK_HOSTS
    _, signature = split_query(parts.geturl())
    if not is_private or signature:
        return None
    known = read_logins().get(host)
    return (known[0], known[2] or "") if known else None


def read_logins() -> dict[str, tuple[str, str, str]]:
    """Read the names and the passwords by server; says once if the file cannot be read."""
    try:
        return dict(netrc().hosts)
    except FileNotFoundError:
        return {}
    except (OSError, NetrcParseError, UnicodeDecodeError) as error:
        note_unreadable_logins(" ".join(str(error).split()))
        return {}


@cache
def note_unreadable_logins(reason: str) -> None:
    tell_user(f"~/.netrc cannot be read ({reason}), and no password is sent: correct the file")
