"""The server: what it answers, what it refuses, and that nobody can make it fall or wait."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
import torch
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from residua.cli.main import main
from residua.data.image import decode, prepared
from residua.data.read import Images
from residua.deploy.batcher import Batcher
from residua.deploy.engine import Engine
from residua.deploy.serve import server
from residua.deploy.service import Limits, Service
from residua.deploy.similar import Album
from residua.net.folder import save_pretrained
from tests.deploy.serving import CLASSES, ask, form, photograph, raw, running, small, small_engine


@pytest.fixture(scope="module")
def engine():
    return small_engine()


@pytest.fixture(scope="module")
def port(engine):
    """Of a server that accepts bodies of 100 kB, images of a million pixels, and waits a second."""
    with running(Service(engine, "<p>page", Limits(100_000, 1_000_000, 64, 1.0))) as found:
        yield found


def expected(engine, content):
    return engine(prepared(decode(content), engine.config)[None])[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_prediction_is_the_engines_whether_raw_or_in_a_form(port, engine, kind):
    content = photograph(kind=kind)
    probabilities = expected(engine, content)
    body, headers = form(content)
    for answer in (ask(port, content), ask(port, body, headers=headers)):
        status, _, found = answer
        assert status == 200
        assert found["class"] == CLASSES[probabilities.argmax()]
        assert found["probability"] == pytest.approx(probabilities.max().item(), abs=1e-6)
        assert [guess["class"] for guess in found["top"]] == [CLASSES[i] for i in probabilities.argsort(descending=True)]
        assert sum(guess["probability"] for guess in found["top"]) == pytest.approx(1)


def test_requests_at_the_same_time_get_each_its_own_answer(port, engine):
    contents = [photograph(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda content: ask(port, content), contents))
    for content, (status, _, found) in zip(contents, answers, strict=True):
        assert status == 200
        assert found["probability"] == pytest.approx(expected(engine, content).max().item(), abs=1e-5)


def malformed():
    """200 bodies with headers, drawn by a seed, none of which is a whole image."""
    draw = random.Random(0)
    whole = {kind: photograph(kind=kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")}
    for i in range(200):
        content = whole[draw.choice(list(whole))]
        match i % 8:
            case 0:
                yield draw.randbytes(draw.randrange(1, 3000)), {}
            case 1:
                yield content[: draw.randrange(1, len(content) // 2)], {}
            case 2:
                yield content[:8] + draw.randbytes(200), {}
            case 3:  # a form without its boundary
                yield form(content)[0], {"content-type": "multipart/form-data"}
            case 4:  # a form cut in two
                body, headers = form(content)
                yield body[: draw.randrange(1, len(body) // 2)], headers
            case 5:  # another boundary than the header's
                yield form(content)[0], {"content-type": f"multipart/form-data; boundary=x{draw.random()}"}
            case 6:
                yield b"", {"content-type": draw.choice(["image/png", "multipart/form-data; boundary=edge", "application/json"])}
            case 7:  # a form of two files, and one of a file that is no image
                body, headers = form(draw.randbytes(100))
                twice = body.replace(b"--edge--\r\n", b"") + form(content, name="b")[0]
                yield (body if draw.random() < 0.5 else twice), headers


def test_200_malformed_bodies_get_4xx_and_the_server_lives(port):
    for body, headers in malformed():
        status, _, found = ask(port, body, headers=headers)
        assert 400 <= status < 500, (body[:60], headers, found)
        assert found["error"]
    assert ask(port, photograph())[0] == 200
    assert ask(port, path="/health", method="GET")[2]["waiting"] == 0


def test_each_mistake_is_named(port):
    assert ask(port, b"hello")[::2] == (415, {"error": "the image is no JPEG, PNG, WebP, BMP, TIFF or GIF image"})
    assert ask(port, photograph()[:400])[::2] == (400, {"error": "the image is truncated: its data end too early"})
    assert ask(port, b"")[::2] == (400, {"error": "the body is empty: send an image, or a form with a file"})
    assert ask(port, photograph(), "/predict?top=-1")[::2] == (
        400,
        {"error": "top=-1 is impossible: give a whole number up to 1000"},
    )
    assert ask(port, path="/nowhere", method="GET")[0] == 404
    assert ask(port, method="GET")[0] == 405
    file = BytesIO()
    Image.new("1", (2000, 1000)).save(file, "PNG")
    assert ask(port, file.getvalue())[::2] == (
        413, {"error": "the image has 2,000,000 pixels, more than the 1,000,000 that are decoded"}
    )  # fmt: skip


def test_a_body_too_large_is_refused_before_it_has_come(port):
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000000\r\n\r\n"
    assert raw(port, head).startswith(b"HTTP/1.1 413")
    chunked = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4e20\r\n" + b"x" * 20000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), 30) as wire:  # a body without end
        wire.sendall(chunked + (b"4e20\r\n" + b"x" * 20000 + b"\r\n") * 5)
        assert wire.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "content",
    [
        b"POST /predict HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["headers of a megabyte", "no HTTP", "a negative length", "a length in letters"],
)
def test_what_is_no_http_is_refused(port, content):
    assert raw(port, content).startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")) or raw(port, content) == b""
    assert ask(port, photograph())[0] == 200


def test_a_slow_client_blocks_nobody_and_is_sent_away(port):
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(100)]  # more than may wait
    for wire in slow:
        wire.sendall(head + b"x")
    assert ask(port, photograph())[0] == 200
    assert b"408" in slow[0].recv(65536)
    for wire in slow:
        wire.close()


def test_where_too_many_wait_others_are_asked_to_come_again(engine):
    go = threading.Event()
    held = Engine("held", engine.config, lambda pixels: (go.wait(30), engine(pixels))[1])
    with running(Service(held, "", Limits(queue=2))) as port, ThreadPoolExecutor(2) as pool:
        first = [pool.submit(ask, port, photograph()) for _ in range(2)]
        while ask(port, path="/health", method="GET")[2]["waiting"] < 2:
            time.sleep(0.01)
        status, headers, found = ask(port, photograph())
        assert (status, headers["retry-after"]) == (503, "1")
        assert found == {"error": "2 images wait already: try again in a second"}
        go.set()
        assert [answer.result()[0] for answer in first] == [200, 200]


def test_those_who_ask_while_a_batch_is_computed_are_in_the_next_one():
    sizes = []

    async def five():
        batcher = Batcher(lambda pixels: (time.sleep(0.1), pixels.flatten(1).float())[1], sizes.append, most=3)
        running = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher(torch.zeros(1, 1, 1)))
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(first, *(batcher(torch.full((1, 1, 1), i)) for i in range(1, 6)))
        running.cancel()
        return [answer.item() for answer in answers]

    assert asyncio.run(five()) == [0, 1, 2, 3, 4, 5]
    assert sizes == [1, 3, 2]


def test_an_engine_that_fails_costs_its_own_batch_only(engine):
    def sometimes(pixels):
        if pixels.float().mean() < 1:
            raise RuntimeError("out of luck")
        return engine(pixels)

    black = BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    with running(Service(Engine("odd", engine.config, sometimes), "", Limits())) as port:
        assert ask(port, black.getvalue())[0] == 500
        assert ask(port, photograph())[0] == 200


def test_a_training_image_is_most_like_itself():
    net, config = small()
    pixels = torch.stack([prepared(decode(photograph(seed)), config) for seed in range(40)])
    album = Album(net, config, Images(pixels, torch.arange(40) % 3), CLASSES, most=40)
    near = album.like(pixels[7], 3)
    assert torch.equal(near[0].pixels, pixels[7])
    assert near[0].name == CLASSES[7 % 3]
    assert near[0].cosine == pytest.approx(1, abs=1e-5)
    assert near[0].cosine > near[1].cosine > near[2].cosine


def test_metrics_count_requests_times_and_batches(engine):
    with running(Service(engine, "", Limits())) as port:
        for body in (photograph(), photograph(1), b"no"):
            ask(port, body)
        _, headers, text = ask(port, path="/metrics", method="GET")
    lines = text.decode().splitlines()
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'residua_requests_total{status="200"} 2', 'residua_requests_total{status="415"} 1', "residua_latency_seconds_count 2",
        'residua_latency_seconds_bucket{le="+Inf"} 2', "residua_waiting 0", "residua_batch_size_sum 2",
    ):  # fmt: skip
        assert line in lines


def test_a_port_in_use_is_named(tmp_path, capsys):
    save_pretrained(*small(), tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "model"), "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert err == f"residua: port {port} of 127.0.0.1 cannot be used: address already in use; choose another --port or --host\n"
    assert main(["serve", str(tmp_path / "model"), "--port", "70000"]) == 2
    assert "--port 70000 is impossible: give a number up to 65535, or 0 for any that is free" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "model"), "--port", "0", "--host", "no.such.host.invalid"]) == 1
    assert "port 0 of no.such.host.invalid cannot be used" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "is no model folder" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--timeout", "0"]) == 2
    assert "--timeout 0.0 lets nothing in: give more than 0" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_it_to_stop_and_the_second_to_leave_at_once(engine, which):
    asked = server(Service(engine, "", Limits()))
    with asked.capture_signals():
        signal.raise_signal(which)
        assert (asked.should_exit, asked.force_exit) == (True, False)
        signal.raise_signal(which)
        assert asked.force_exit


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_asked_to_stop_it_answers_what_has_begun(tmp_path):
    save_pretrained(*small(), tmp_path / "model")
    command = [sys.executable, "-m", "residua", "serve", str(tmp_path / "model"), "--port", "0", "--engine", "torch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().split("  ")[0].rpartition(":")[2])
        content = photograph()
        with socket.create_connection(("127.0.0.1", port), 30) as wire:
            wire.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(content) + content[:50])
            while ask(port, path="/health", method="GET")[0] != 200:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            wire.sendall(content[50:])
            assert b"200 OK" in wire.recv(65536)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
