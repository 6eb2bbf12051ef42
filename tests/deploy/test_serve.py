"""The server: its answers, its refusals, and its robustness against bad or slow clients."""

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
from residua.data.decode import decode_image, preprocess_image
from residua.data.images import Images
from residua.deploy.batcher import RequestBatcher
from residua.deploy.engine import InferenceEngine
from residua.deploy.limits import ServerLimits
from residua.deploy.serve import make_unbound_server
from residua.deploy.service import PredictionService
from residua.deploy.similar import SimilarImageIndex
from residua.net.model_folder import save_pretrained
from tests.deploy.live_server import (
    CLASSES,
    make_image_bytes,
    make_multipart_form,
    make_small_engine,
    make_small_model,
    run_server,
    send_raw_bytes,
    send_request,
)


@pytest.fixture(scope="module")
def shared_engine():
    return make_small_engine()


@pytest.fixture(scope="module")
def server_port(shared_engine):
    """The port of a server with limits of 100 kB per body, a million pixels, and one second."""
    with run_server(
        PredictionService(shared_engine, "<p>page", ServerLimits(100_000, 1_000_000, 64, 1.0))
    ) as port:
        yield port


def compute_expected_probabilities(engine, content):
    return engine(preprocess_image(decode_image(content), engine.config)[None])[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_raw_and_form_requests_return_the_probabilities_of_the_engine(
    server_port, shared_engine, kind
):
    content = make_image_bytes(kind=kind)
    probabilities = compute_expected_probabilities(shared_engine, content)
    body, headers = make_multipart_form(content)
    for answer in (
        send_request(server_port, content),
        send_request(server_port, body, headers=headers),
    ):
        status, _, found = answer
        assert status == 200
        assert found["class"] == CLASSES[probabilities.argmax()]
        assert found["probability"] == pytest.approx(probabilities.max().item(), abs=1e-6)
        assert [guess["class"] for guess in found["top"]] == [
            CLASSES[i] for i in probabilities.argsort(descending=True)
        ]
        assert sum(guess["probability"] for guess in found["top"]) == pytest.approx(1)


def test_concurrent_requests_each_get_their_own_response(server_port, shared_engine):
    contents = [make_image_bytes(seed) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda content: send_request(server_port, content), contents))
    for content, (status, _, found) in zip(contents, answers, strict=True):
        assert status == 200
        assert found["probability"] == pytest.approx(
            compute_expected_probabilities(shared_engine, content).max().item(), abs=1e-5
        )


def generate_malformed_requests():
    """Yield 200 random bodies with headers, none of which is a complete image."""
    rng = random.Random(0)
    intact_images = {
        kind: make_image_bytes(kind=kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
    }
    for i in range(200):
        content = intact_images[rng.choice(list(intact_images))]
        match i % 8:
            case 0:
                yield rng.randbytes(rng.randrange(1, 3000)), {}
            case 1:
                yield content[: rng.randrange(1, len(content) // 2)], {}
            case 2:
                yield content[:8] + rng.randbytes(200), {}
            case 3:  # a form without its boundary
                yield make_multipart_form(content)[0], {"content-type": "multipart/form-data"}
            case 4:  # a form cut in two
                body, headers = make_multipart_form(content)
                yield body[: rng.randrange(1, len(body) // 2)], headers
            case 5:  # the header names another boundary
                yield (
                    make_multipart_form(content)[0],
                    {"content-type": f"multipart/form-data; boundary=x{rng.random()}"},
                )
            case 6:
                yield (
                    b"",
                    {
                        "content-type": rng.choice(
                            ["image/png", "multipart/form-data; boundary=edge", "application/json"]
                        )
                    },
                )
            case 7:  # a form whose file is not an image
                yield make_multipart_form(rng.randbytes(100))


def test_200_malformed_bodies_get_4xx_and_the_server_keeps_running(server_port):
    for body, headers in generate_malformed_requests():
        status, _, found = send_request(server_port, body, headers=headers)
        assert 400 <= status < 500, (body[:60], headers, found)
        assert found["error"]
    assert send_request(server_port, make_image_bytes())[0] == 200
    assert send_request(server_port, path="/health", method="GET")[2]["waiting"] == 0


def test_each_bad_request_gets_its_error_message(server_port):
    status, _, found = send_request(server_port, b"hello")
    assert (status, found["error"].startswith("the image is not a")) == (415, True)
    assert send_request(server_port, make_image_bytes()[:400])[::2] == (
        400,
        {"error": "the image is truncated: its data end too early"},
    )
    assert send_request(server_port, b"")[::2] == (
        400,
        {"error": "the body is empty: send an image, or a form with a file"},
    )
    assert send_request(server_port, make_image_bytes(), "/predict?top=-1")[::2] == (
        400,
        {"error": "top=-1 is invalid: give a whole number up to 1000"},
    )
    assert send_request(server_port, path="/nowhere", method="GET")[0] == 404
    assert send_request(server_port, method="GET")[0] == 405
    file = BytesIO()
    Image.new("1", (2000, 1000)).save(file, "PNG")
    status, _, found = send_request(server_port, file.getvalue())
    assert status == 413
    assert "the image has 2,000,000 pixels, more than the limit of 1,000,000" in found["error"]


def test_a_too_large_body_is_refused_before_it_is_received(server_port):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000000\r\n\r\n"
    assert send_raw_bytes(server_port, head).startswith(b"HTTP/1.1 413")
    chunked = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"4e20\r\n"
        + b"x" * 20000
        + b"\r\n"
    )
    with socket.create_connection(("127.0.0.1", server_port), 30) as connection:  # an endless body
        connection.sendall(chunked + (b"4e20\r\n" + b"x" * 20000 + b"\r\n") * 5)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "content",
    [
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["headers of a megabyte", "no HTTP", "a negative length", "a length in letters"],
)
def test_invalid_http_is_refused(server_port, content):
    answer = send_raw_bytes(server_port, content)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert send_request(server_port, make_image_bytes())[0] == 200


def test_a_slow_client_blocks_nobody_and_times_out(server_port):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
    slow = [
        socket.create_connection(("127.0.0.1", server_port), 30) for _ in range(100)
    ]  # more than the queue limit
    for connection in slow:
        connection.sendall(head + b"x")
    assert send_request(server_port, make_image_bytes())[0] == 200
    assert b"408" in slow[0].recv(65536)
    for connection in slow:
        connection.close()


def test_a_full_queue_answers_503_with_retry_after(shared_engine):
    release = threading.Event()
    blocked_engine = InferenceEngine(
        "held",
        shared_engine.config,
        lambda pixels: (release.wait(30), shared_engine.compute_scores(pixels))[1],
    )
    with (
        run_server(
            PredictionService(blocked_engine, "", ServerLimits(max_waiting_images=2))
        ) as port,
        ThreadPoolExecutor(2) as pool,
    ):
        first = [pool.submit(send_request, port, make_image_bytes()) for _ in range(2)]
        while send_request(port, path="/health", method="GET")[2]["waiting"] < 2:
            time.sleep(0.01)
        status, headers, found = send_request(port, make_image_bytes())
        assert (status, headers["retry-after"]) == (503, "1")
        assert found == {"error": "the queue is full (2 images): try again in a second"}
        release.set()
        assert [answer.result()[0] for answer in first] == [200, 200]


def test_requests_during_a_batch_join_the_next_batch():
    sizes = []

    async def run_requests():
        batcher = RequestBatcher(
            lambda pixels: (time.sleep(0.1), pixels.flatten(1).float())[1],
            sizes.append,
            max_batch_size=3,
        )
        running = asyncio.create_task(batcher.run_forever())
        first = asyncio.create_task(batcher(torch.zeros(1, 1, 1)))
        await asyncio.sleep(0.05)
        answers = await asyncio.gather(
            first, *(batcher(torch.full((1, 1, 1), i)) for i in range(1, 6))
        )
        running.cancel()
        return [answer.item() for answer in answers]

    assert asyncio.run(run_requests()) == [0, 1, 2, 3, 4, 5]
    assert sizes == [1, 3, 2]


def test_an_engine_error_fails_only_its_own_batch(shared_engine):
    def fail_on_black_images(pixels):
        if pixels.float().mean() < 1:
            raise RuntimeError("out of luck")
        return shared_engine.compute_scores(pixels)

    black = BytesIO()
    Image.new("RGB", (16, 16)).save(black, "PNG")
    with run_server(
        PredictionService(
            InferenceEngine("odd", shared_engine.config, fail_on_black_images), "", ServerLimits()
        )
    ) as port:
        assert send_request(port, black.getvalue())[0] == 500
        assert send_request(port, make_image_bytes())[0] == 200


def test_a_training_image_is_most_similar_to_itself():
    net, config = make_small_model()
    pixels = torch.stack(
        [preprocess_image(decode_image(make_image_bytes(seed)), config) for seed in range(40)]
    )
    index = SimilarImageIndex(
        net, config, Images(pixels, torch.arange(40) % 3), CLASSES, max_images=40
    )
    nearest = index.find_nearest(pixels[7], 3)
    assert torch.equal(nearest[0].pixels, pixels[7])
    assert nearest[0].class_name == CLASSES[7 % 3]
    assert nearest[0].cosine == pytest.approx(1, abs=1e-5)
    assert nearest[0].cosine > nearest[1].cosine > nearest[2].cosine


def test_metrics_report_requests_latencies_and_batch_sizes(shared_engine):
    with run_server(PredictionService(shared_engine, "", ServerLimits())) as port:
        for body in (make_image_bytes(), make_image_bytes(1), b"no"):
            send_request(port, body)
        _, headers, text = send_request(port, path="/metrics", method="GET")
    lines = text.decode().splitlines()
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'residua_requests_total{status="200"} 2',
        'residua_requests_total{status="415"} 1',
        "residua_latency_seconds_count 2",
        'residua_latency_seconds_bucket{le="+Inf"} 2',
        "residua_waiting 0",
        "residua_batch_size_sum 2",
    ):
        assert line in lines


def test_a_port_in_use_and_invalid_serve_options_are_reported(tmp_path, capsys):
    save_pretrained(*make_small_model(), tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path / "model"), "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert err == (
        f"residua: the server cannot listen on port {port} of 127.0.0.1: address already in use; "
        "choose another --port or --host\n"
    )
    assert main(["serve", str(tmp_path / "model"), "--port", "70000"]) == 2
    assert (
        "--port 70000 is invalid: give a number up to 65535, or 0 for any free port"
        in capsys.readouterr().err
    )
    assert (
        main(["serve", str(tmp_path / "model"), "--port", "0", "--host", "no.such.host.invalid"])
        == 1
    )
    assert "cannot listen on port 0 of no.such.host.invalid" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "is not a model folder" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--timeout", "0"]) == 2
    assert "--timeout must be positive, got 0.0" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_stops_gracefully_and_the_second_forces_exit(shared_engine, signal_number):
    uvicorn_server = make_unbound_server(PredictionService(shared_engine, "", ServerLimits()))
    with uvicorn_server.capture_signals():
        signal.raise_signal(signal_number)
        assert (uvicorn_server.should_exit, uvicorn_server.force_exit) == (True, False)
        signal.raise_signal(signal_number)
        assert uvicorn_server.force_exit


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_on_sigterm_the_server_answers_requests_already_begun(tmp_path):
    save_pretrained(*make_small_model(), tmp_path / "model")
    command = [
        sys.executable,
        "-m",
        "residua",
        "serve",
        str(tmp_path / "model"),
        "--port",
        "0",
        "--engine",
        "torch",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().split("  ")[0].rpartition(":")[2])
        content = make_image_bytes()
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                % len(content)
                + content[:50]
            )
            while send_request(port, path="/health", method="GET")[0] != 200:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(content[50:])
            assert b"200 OK" in connection.recv(65536)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
