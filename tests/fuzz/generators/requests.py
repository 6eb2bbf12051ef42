"""HTTP requests to a server: honest ones among those that no client of ours would send."""

import base64
import json

from tests.fuzz.case import Case, encode_noise
from tests.fuzz.generators.images import make_image
from tests.fuzz.generators.mutate import encode, mutate_json_text

PATHS = (
    "/predict",
    "/predict?top=2",
    "/predict?top=-1",
    "/predict?top=9999999999999999999999",
    "/predict?top=",
    "/predict?heatmap=1",
    "/predict?similar=3",
    "/predict?%00=1",
    "/predict?top=nan",
    "/",
    "/health",
    "/metrics",
    "/../etc/passwd",
    "/predict/",
    "//",
    "/predict?" + "a=1&" * 2000,
)
TYPES = (
    "image/png",
    "application/json",
    "multipart/form-data; boundary=edge",
    "multipart/form-data",
    "text/plain; charset=no",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=" + "x" * 300,
    "",
)
POST = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n"
RAW = (
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "\x00\x01\x02\r\n\r\n",
    f"{POST}Content-Length: -5\r\n\r\n",
    f"{POST}Content-Length: 99999999999999999999\r\n\r\nabc",
    f"{CHUNKED}ffffffffffffffff\r\n",
    f"{CHUNKED}5\r\nabc",
    "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    f"{POST}Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "GET " + "/a" * 40_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


def make_case(rng, seeds):
    """Five requests to one server."""
    requests = [make_request(rng) for _ in range(5)]
    return Case(
        "http",
        str([request.get("path", "raw") for request in requests])[:100],
        {},
        [],
        {},
        requests,
    )


def make_request(rng):
    if rng.random() < 0.2:
        return {"raw": rng.choice(RAW)}
    path = rng.choice(("/predict", rng.choice(PATHS)))
    image = encode_noise(rng.randrange(99)) if rng.random() < 0.4 else make_image(rng)[1]
    kind = rng.choice(("image", "json", "form"))
    headers = {"content-type": rng.choice(TYPES)} if rng.random() < 0.4 else {}
    if rng.random() < 0.1:
        headers["origin"] = rng.choice(
            ("null", "http://evil.example", "http://localhost", "\u00e9")
        )
    if kind == "image":
        body = {"base64": encode(image)}
    elif kind == "json":
        value = {
            "image": base64.b64encode(image).decode(),
            "images": [base64.b64encode(image).decode()] * rng.randrange(3),
        }
        if rng.random() < 0.5:
            value.pop(rng.choice(sorted(value)))
        text = json.dumps(value)
        body = text if rng.random() < 0.3 else mutate_json_text(rng, text)
        headers.setdefault("content-type", "application/json")
    else:
        name = rng.choice(("file", "image", "", "\x00", 'a"b', "é"))
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
        content = (
            head.encode() * rng.choice((1, 1, 3, 200))
            + image
            + rng.choice((b"\r\n--edge--\r\n", b"", b"\r\n--edge"))
        )
        body = {"base64": encode(content)}
        headers.setdefault("content-type", "multipart/form-data; boundary=edge")
    return {
        "path": path,
        "method": rng.choice(("POST", "POST", "POST", "GET", "PUT", "OPTIONS")),
        "headers": headers,
        "body": body,
    }
