"""The memory of request bodies: bounded over all connections, fair to small ones."""

import asyncio
import contextlib
import os
import socket
import time

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.deploy import body_budget
from residua.deploy.body_budget import BodyBudget, BodyEvictedError
from residua.deploy.limits import ServerLimits
from residua.deploy.service import PredictionService
from tests.deploy.live_server import (
    make_image_bytes,
    make_small_engine,
    read_metrics,
    run_server,
    send_request,
)

UNFINISHED_BODIES = 12
BODY_BYTES = 2_000_000
LIMITS = ServerLimits(max_body_bytes=BODY_BYTES, max_total_bytes=5_000_000, timeout_seconds=1.0)


def read_process_bytes():
    """The resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pour_unfinished_body(port):
    """Send a body without its last byte, as far as the server takes it."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        connection.sendall(head.encode() + bytes(BODY_BYTES - 1))
    return connection


def test_unfinished_bodies_stay_in_the_budget_and_do_not_stop_an_honest_client():
    service = PredictionService(make_small_engine(), "", LIMITS)
    with run_server(service) as port:
        assert send_request(port, make_image_bytes())[0] == 200
        memory_before = read_process_bytes()
        connections, used = [], []
        for _ in range(UNFINISHED_BODIES):
            connections.append(pour_unfinished_body(port))
            assert send_request(port, make_image_bytes())[0] == 200
            used.append(service.body_budget.used_bytes)
        assert 2 * BODY_BYTES - 2 <= max(used) <= LIMITS.max_total_bytes
        assert read_process_bytes() - memory_before < 20e6  # all bodies together have 24 MB
        statuses = [connection.recv(65536)[9:12].decode() for connection in connections]
        assert statuses.count("503") == UNFINISHED_BODIES - 2
        assert statuses.count("408") == 2
        metrics = read_metrics(port)
        assert metrics['residua_refused_total{reason="body_memory"}'] == UNFINISHED_BODIES - 2
        assert metrics['residua_refused_total{reason="body_timeout"}'] == 2
        assert metrics["residua_body_bytes"] == 0
        for connection in connections:
            connection.close()


def test_a_refused_body_gets_503_and_when_to_try_again():
    limits = ServerLimits(max_body_bytes=10_000, max_total_bytes=10_000)
    service = PredictionService(make_small_engine(), "", limits)
    with run_server(service) as port:
        service.body_budget.used_bytes += 9_000  # as if complete bodies waited for their answers
        status, headers, found = send_request(port, bytes(2_000))
        assert (status, headers["retry-after"]) == (503, "1")
        assert found["error"] == (
            "the memory for request bodies is full (10,000 bytes): try again in a second"
        )
        assert service.body_budget.used_bytes == 9_000
        assert send_request(port, make_image_bytes()[:900])[0] == 400  # it fits, and is truncated


def test_the_body_with_the_most_byte_seconds_makes_room():
    async def upload():
        budget = BodyBudget(1000)
        with contextlib.ExitStack() as shares:

            async def open_share(size, age):
                share = shares.enter_context(budget.open_share())
                share.started_at = time.monotonic() - age
                arrival = await timeouts.enter_async_context(asyncio.timeout(60))
                shares.enter_context(share.allow_eviction(arrival))
                share.add_bytes(size)
                return share

            async with contextlib.AsyncExitStack() as timeouts:
                large_new = await open_share(500, 1)
                small_old = await open_share(100, 10)
                large_old = await open_share(300, 10)
                newcomer = await open_share(200, 0)
                assert large_old.is_evicted
                spared = (large_new, small_old, newcomer)
                assert [share.is_evicted for share in spared] == [False] * 3
                assert budget.used_bytes == 800
                with pytest.raises(BodyEvictedError):
                    large_old.add_bytes(1)
                with pytest.raises(BodyEvictedError):
                    large_new.add_bytes(501)  # more than the budget has, even alone
                assert budget.used_bytes <= 300
                asyncio.current_task().uncancel()
        assert budget.used_bytes == 0

    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        asyncio.run(upload())


def test_the_memory_of_many_large_bodies_is_returned_to_the_system(monkeypatch):
    calls = []
    monkeypatch.setattr(body_budget, "return_free_memory", lambda: calls.append(1))
    monkeypatch.setattr(body_budget, "TRIM_DELAY_SECONDS", 0)

    async def use_budget(body_bytes):
        budget = BodyBudget(10**9)
        for _ in range(3):
            with budget.open_share() as first, budget.open_share() as second:
                first.add_bytes(body_bytes)
                second.add_bytes(body_bytes)
            await asyncio.sleep(0.01)

    asyncio.run(use_budget(1_000_000))
    assert not calls
    asyncio.run(use_budget(40_000_000))
    assert len(calls) == 3


def test_complete_bodies_are_not_evicted():
    budget = BodyBudget(1000)
    with budget.open_share() as complete, budget.open_share() as newcomer:
        complete.add_bytes(900)
        with pytest.raises(BodyEvictedError):
            newcomer.add_bytes(101)
        assert not complete.is_evicted
        assert budget.used_bytes == 900
    assert budget.used_bytes == 0
