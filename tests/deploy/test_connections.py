"""Slow, silent and surplus connections, while honest clients are served."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.deploy import connections, serve
from residua.deploy.engine import InferenceEngine
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from tests.deploy.live_server import (
    make_image_bytes,
    make_small_engine,
    read_metrics,
    read_until_closed,
    run_server,
    send_request,
)

HALF_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_BODY = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nx"
WHOLE_REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
FAST = ServerLimits(timeout_seconds=0.6, head_timeout_seconds=0.4)


@pytest.fixture(scope="module")
def shared_engine():
    return make_small_engine()


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch):
    """The deadlines that no option changes."""
    monkeypatch.setattr(connections, "DISCARD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "FLUSH_SECONDS", 0.3)


@pytest.fixture
def few_connections(monkeypatch):
    """Let a server have eight connections."""
    monkeypatch.setattr(serve, "raise_open_file_limit", lambda: 8)


def connect(port, content=b""):
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(content)
    return connection


def parse_answer(content):
    """The status, the headers in lower case, and the JSON of an answer in bytes."""
    head, _, body = content.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().lower().split("\r\n")
    return (
        int(status_line.split()[1]),
        dict(line.split(": ", 1) for line in lines),
        json.loads(body),
    )


def test_a_head_that_does_not_end_in_time_gets_408_however_it_drips(shared_engine):
    with run_server(PredictionService(shared_engine, "", FAST)) as port:
        with connect(port, WHOLE_REQUEST) as reused, connect(port, HALF_HEAD) as stalled:
            answer = b""
            while not answer.endswith(b"}"):
                answer += reused.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            started_at = time.monotonic()
            answers = {}
            with connect(port) as dripping:
                for connection in (dripping, reused):
                    connection.sendall(HALF_HEAD)
                while time.monotonic() - started_at < 0.9:
                    time.sleep(0.05)
                    for connection in (dripping, reused):
                        with contextlib.suppress(ConnectionError):
                            connection.sendall(b"x")
                for name, connection in (
                    ("dripping", dripping),
                    ("reused", reused),
                    ("stalled", stalled),
                ):
                    answers[name] = read_until_closed(connection)
        for name, answer in answers.items():
            status, headers, found = parse_answer(answer)
            assert status == 408, name
            assert headers["connection"] == "close"
            assert headers["x-content-type-options"] == "nosniff"
            assert found == {"error": "the request's headers did not arrive within 0.4 seconds"}
        assert read_metrics(port)['residua_refused_total{reason="head_timeout"}'] == 3


def test_a_connection_that_sends_nothing_is_closed_without_an_answer(shared_engine):
    with run_server(PredictionService(shared_engine, "", FAST)) as port, connect(port) as silent:
        started_at = time.monotonic()
        assert read_until_closed(silent) == b""
        assert 0.2 < time.monotonic() - started_at < 3


@pytest.mark.parametrize("start", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "head", "body"])
def test_at_the_limit_the_oldest_waiting_connection_makes_room(
    shared_engine, few_connections, start
):
    with run_server(PredictionService(shared_engine, "", ServerLimits())) as port:
        slow = []
        for _ in range(8):
            slow.append(connect(port, start))
            time.sleep(0.02)  # so that the server sees them in this order
        for _ in range(3):
            assert send_request(port, make_image_bytes())[0] == 200
        closed = read_until_closed(slow[0])
        if start:
            status, headers, found = parse_answer(closed)
            assert (status, headers["retry-after"]) == (503, "1")
            assert found["error"].startswith("the server has too many connections (8)")
        else:
            assert closed == b""
        slow[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):  # the youngest is still open
            slow[-1].recv(1)
        metrics = read_metrics(port)
        assert metrics['residua_refused_total{reason="connection_limit"}'] >= 1
        assert metrics["residua_connections"] <= 9
        for connection in slow:
            connection.close()


def test_half_heads_are_closed_before_unfinished_bodies(shared_engine, few_connections):
    with run_server(PredictionService(shared_engine, "", ServerLimits())) as port:
        uploading = connect(port, HALF_BODY)
        time.sleep(0.05)
        slow = [connect(port, HALF_HEAD) for _ in range(20)]
        content = make_image_bytes()
        assert send_request(port, content)[0] == 200
        uploading.sendall(b"y" * 4999)
        assert uploading.recv(65536).startswith(b"HTTP/1.1 415")  # it was read to its end
        for connection in [uploading, *slow]:
            connection.close()


def test_when_all_connections_wait_for_predictions_a_new_one_gets_503(
    shared_engine, few_connections
):
    release = threading.Event()
    blocked_engine = InferenceEngine(
        "held",
        shared_engine.config,
        lambda pixels: (release.wait(30), shared_engine.compute_scores(pixels))[1],
    )
    content = make_image_bytes()
    request = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
        content
    )
    service = PredictionService(blocked_engine, "", ServerLimits())
    with run_server(service) as port:
        accepted = [connect(port, request + content) for _ in range(8)]
        while service.metrics.waiting_images < 8:
            time.sleep(0.01)
        with connect(port) as surplus:
            assert parse_answer(read_until_closed(surplus))[0] == 503
        release.set()
        for connection in accepted:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.close()


def test_the_rest_of_a_refused_body_is_discarded_until_a_deadline(shared_engine):
    with (
        run_server(PredictionService(shared_engine, "", ServerLimits(max_body_bytes=1000))) as port,
        connect(port, HALF_BODY.replace(b"/predict", b"/health")) as endless,
    ):
        started_at = time.monotonic()
        answer = b""
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started_at < 5:
                endless.sendall(b"x")
                time.sleep(0.02)
                endless.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    answer += endless.recv(65536)
                endless.setblocking(True)
        assert answer.startswith(b"HTTP/1.1 405")
        assert time.monotonic() - started_at < 3
        status, _, found = send_request(port, bytes(6_000_000))  # which is sent before it reads
        assert (status, found["error"]) == (413, "the body is larger than 1,000 bytes")
        assert read_metrics(port)['residua_refused_total{reason="body_size"}'] == 1


def test_a_client_that_does_not_read_its_answer_is_disconnected(shared_engine, monkeypatch):
    monkeypatch.setattr(serve, "KEEP_ALIVE_SECONDS", 0)
    service = PredictionService(shared_engine, "x" * 30_000_000, FAST)
    with run_server(service) as port:
        with connect(port, WHOLE_REQUEST.replace(b"/health", b"/")):
            deadline = time.monotonic() + 5
            while service.metrics.open_connections == 0:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            while service.metrics.open_connections:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert send_request(port, make_image_bytes())[0] == 200


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01 TLS?\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other.example\r\n\r\n",
        HALF_BODY.replace(b"Content-Length: 5000", b"Transfer-Encoding: chunked"),
    ],
    ids=["a megabyte of headers", "TLS", "two hosts", "a chunk without a size"],
)
def test_invalid_http_gets_one_sentence_as_json_and_is_counted(shared_engine, content, capfd):
    with run_server(PredictionService(shared_engine, "", ServerLimits())) as port:
        with connect(port) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(content + b"\r\n\r\n")
            answer = read_until_closed(connection)
        status, headers, found = parse_answer(answer)
        assert (status, headers["x-content-type-options"]) == (400, "nosniff")
        assert found["error"] == (
            "the request is not valid HTTP, or its headers exceed 16,384 bytes"
        )
        assert read_metrics(port)['residua_refused_total{reason="invalid_http"}'] == 1
    assert capfd.readouterr().err == ""  # strangers cannot fill the log


@pytest.mark.parametrize(("soft", "connections_allowed"), [(256, 1872), (1_000_000, 2048)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(soft, connections_allowed):
    hard = 2000 if soft < 2000 else soft
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this process may not open so many files")
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "from residua.deploy.connections import raise_open_file_limit; "
        "print(raise_open_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(connections_allowed), str(max(soft, 2000)), str(hard)]
