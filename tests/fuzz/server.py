"""Requests to a server that runs in the same process; any bytes may be sent."""

import json
import logging
import socket
import time

from residua import deploy, net
from tests.deploy.live_server import run_server, send_request
from tests.fuzz.case import make_content

TIMEOUT = 20


def answer_requests(requests, seeds):
    """Start a server of the seeds' model, send the requests; return complaints.

    A request is {"raw": content}, or {"method", "path", "headers", "body"}.
    """
    network, config = net.load_model_folder(seeds / "run" / "last")
    engine = deploy.build_engine(network, config, "torch")
    limits = deploy.ServerLimits(200_000, 1_000_000, 64, 5.0, 400_000, 5.0)
    service = deploy.PredictionService(engine, "<p>page", limits)
    logged = []
    logging.getLogger().addHandler(make_handler(logged))
    complaints = []
    honest = (seeds / "one.png").read_bytes()
    with run_server(service) as port:
        before = send_request(port, honest)
        for request in requests:
            status = send_one(port, request, seeds)
            if status == 500 or not (status is None or 200 <= status < 600):
                complaints.append(("server", f"status {status} for {str(request)[:300]}"))
        after = send_request(port, honest)
        if before[0] != 200 or not is_same_answer(before[2], after[2]):
            complaints.append(("server", f"the answer changed: {before[2]} and then {after[2]}"))
        if waiting := count_waiting(port):
            complaints.append(("server", f"{waiting} images wait for ever"))
    wanted = json.loads((seeds / "predict.json").read_text())
    if abs(before[2]["probability"] - wanted["probability"]) > 1e-5:
        complaints.append(("server", f"{before[2]} is not what predict says: {wanted}"))
    complaints += [("server", f"logged: {text[-300:]}") for text in logged]
    return complaints


def is_same_answer(first, second):
    """Whether two answers are equal up to rounding, which depends on what else is in a batch."""
    tops = [[(entry["class"], entry["probability"]) for entry in a["top"]] for a in (first, second)]
    return all(
        name == other_name and abs(p - q) < 1e-5
        for (name, p), (other_name, q) in zip(*tops, strict=True)
    )


def count_waiting(port):
    """The images that wait, after a time in which all should have been answered."""
    end = time.monotonic() + TIMEOUT
    while waiting := send_request(port, path="/health", method="GET")[2]["waiting"]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return waiting


def make_handler(logged):
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(str(record.exc_info or record.getMessage()))
    return handler


def send_one(port, request, seeds):
    """Send a request; return its status, or None if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.sendall(format_request(port, request, seeds))
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:  # the server has closed the connection
            return None
    head = answer.split(b"\r\n")[0].split(b" ")
    return int(head[1]) if len(head) > 1 and head[1].isdigit() else None if not answer else -1


def format_request(port, request, seeds):
    if "raw" in request:
        return make_content(request["raw"], seeds)
    body = make_content(request.get("body", ""), seeds)
    headers = {
        "host": f"127.0.0.1:{port}",
        "content-length": str(len(body)),
        "connection": "close",
        **request.get("headers", {}),
    }
    lines = [
        f"{request.get('method', 'POST')} {request['path']} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
