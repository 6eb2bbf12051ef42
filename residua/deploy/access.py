"""Decides which hosts and origins a service answers, and sets the headers of its answers.

A page of another site cannot read answers of this server unless its own name is made to point here
(DNS rebinding): then the browser sends that name as the Host, which is refused.  Starlette's
TrustedHostMiddleware also refuses hosts, but cannot allow the address that a connection came in on,
and names no remedy.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from residua.deploy.metrics import ServerMetrics
from residua.errors import UsageError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing and start no computation
MAX_QUOTED_CHARACTERS = 80  # of a header, in an error message
NULL_ORIGIN_ADVICE = (
    "browsers send null for a page that was opened as a file or is in a sandboxed frame, and it "
    "cannot be allowed by name; open the page from a web server, and allow that server's origin"
)

# The page is one file: scripts and styles are inline, images are data URIs or the user's own file.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "img-src data: blob:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The hosts and origins that a service answers besides its own."""

    hosts: tuple[str, ...] = ()  # besides `LOCAL_HOSTS` and the address of the connection
    origins: tuple[str, ...] = ()  # of pages that may send requests; "*" allows every page

    def allows_host(self, header: str, own_address: str) -> bool:
        """Return whether to answer a request with this Host header, received at `own_address`.

        `own_address` is always allowed: no other site can have an address of this machine as its
        name.
        """
        host = parse_host(header)
        return bool(host) and host in {
            *LOCAL_HOSTS,
            normalise_host(own_address),
            *map(normalise_host, self.hosts),
        }

    def allows_origin(self, origin: str, host_header: str) -> bool:
        """Return whether a page of this origin may send a request to the Host header's host."""
        if "*" in self.origins or origin.lower() in map(str.lower, self.origins):
            return True
        scheme, _, own_host = origin.partition("://")
        return scheme in ("http", "https") and own_host.lower() == host_header.lower()


class AccessCheck:
    """ASGI middleware that refuses requests whose host or origin has no access."""

    def __init__(self, app: ASGIApp, rules: AccessRules, metrics: ServerMetrics) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self.find_refusal(scope) if scope["type"] == "http" else None
        await (response or self.app)(scope, receive, send)

    def find_refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer 421 or 403 to a request without access; None if it has access."""
        headers = Headers(scope=scope)
        host, origins = headers.get("host", ""), headers.getlist("origin")
        if not self.rules.allows_host(host, (scope.get("server") or ("",))[0]):
            self.metrics.count_refusal("host")
            message = describe_refused_host(host)
            return JSONResponse({"error": message}, HTTPStatus.MISDIRECTED_REQUEST)
        if scope["method"] not in SAFE_METHODS and not all(
            self.rules.allows_origin(origin, host) for origin in origins
        ):
            self.metrics.count_refusal("origin")
            message = describe_refused_origin(", ".join(origins))
            return JSONResponse({"error": message}, HTTPStatus.FORBIDDEN)
        return None


def describe_refused_host(header: str) -> str:
    """Say that a host has no access, and how to get it if `--allow-host` can."""
    host = parse_host(header)
    name = quote_header(host or header)
    if not is_host(host):
        return (
            f"the host {name} is not allowed: it is neither a name nor an address; send the "
            "request to the server's own"
        )
    return f"the host {name} is not allowed: start the server with --allow-host {name}"


def describe_refused_origin(origin: str) -> str:
    """Say that pages of an origin have no access, and how to get it if `--allow-origin` can."""
    name = quote_header(origin)
    if origin.strip().lower() == "null":
        return f"pages of the origin null may not send requests: {NULL_ORIGIN_ADVICE}"
    if not is_web_origin(origin):
        return (
            f"pages of {name} may not send requests: --allow-origin can allow only http and https "
            "origins; open the page from a web server, and allow that server's origin"
        )
    return f"pages of {name} may not send requests: start the server with --allow-origin {name}"


def parse_host(header: str) -> str:
    """Return the host of a Host header without its port; "" if the header is not valid."""
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+)(:\d{1,5})?", header.strip())
    return normalise_host(match[1]) if match else ""


def normalise_host(host: str) -> str:
    """Normalise a host: lower case, IPv6 without brackets, IPv4-mapped addresses as IPv4."""
    host = host.strip("[]").lower().removesuffix(".")
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address)


def quote_header(text: str) -> str:
    return text[:MAX_QUOTED_CHARACTERS] or "(none)"


def parse_allowed_host(text: str) -> str:
    """Return the host name or address that `--allow-host` gives; raise UsageError if it is none."""
    if not is_host(normalise_host(text)):
        raise UsageError(
            f"--allow-host {text!r} is not a host: give a name or an address without scheme and "
            "port, such as photos.example"
        )
    return text


def is_host(text: str) -> bool:
    """Return whether a normalised text is a host that `--allow-host` can allow."""
    is_name = re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", text)
    return bool(is_name) or is_ip_address(text)


def is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_allowed_origin(text: str) -> str:
    """Return the origin that `--allow-origin` gives, as browsers send it.

    Raises UsageError for anything else.
    """
    if text.strip().lower() == "null":
        raise UsageError(f"--allow-origin null names no site: {NULL_ORIGIN_ADVICE}")
    if text != "*" and not is_web_origin(text):
        raise UsageError(
            f"--allow-origin {text!r} is not an origin: give a scheme and a host without a path, "
            "such as https://photos.example, or '*' for all pages"
        )
    return text.lower()


def is_web_origin(text: str) -> bool:
    """Return whether a text is an http or https origin, which `--allow-origin` can allow."""
    pattern = r"https?://([^\s/?#@:\[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?"
    return bool(re.fullmatch(pattern, text.lower()))
