"""A small network behind a real server on a free port, and clients that send it requests."""

import json
import socket
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from io import BytesIO

import numpy as np
import torch
from PIL import Image

import residua
from residua.config.model import ModelConfig
from residua.deploy.engine import build_torch_engine
from residua.deploy.serve import make_unbound_server, open_listener
from tests.third_party import randomize_weights

CLASSES = ("ant", "bee", "cat")


def make_small_model(name="cifar-resnet8"):
    """A net and its config."""
    net = randomize_weights(residua.create_model(name, num_classes=3, input=(3, 16, 16)))
    return net, ModelConfig(
        network=net.plan.network,
        classes=CLASSES,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.25),
        temperature=0.1,
    )


def make_small_engine():
    return build_torch_engine(*make_small_model(), "fp32")


def make_image_bytes(seed=0, kind="PNG", size=(40, 30)):
    """The bytes of an image file of random colours."""
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8
    )
    file = BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind)
    return file.getvalue()


@contextmanager
def run_server(service):
    """Run `service` on a free port, in a thread, and yield the port."""
    torch.set_num_threads(1)
    with open_listener("127.0.0.1", 0) as listener:
        uvicorn_server = make_unbound_server(service)
        thread = threading.Thread(target=lambda: uvicorn_server.run(sockets=[listener]))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            uvicorn_server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def send_request(port, body=None, path="/predict", headers=None, method="POST"):
    """Send one request; returns the status, the headers, and the body, parsed if it is JSON."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        return (
            response.status,
            dict(response.getheaders()),
            json.loads(content) if "json" in response.headers["content-type"] else content,
        )
    finally:
        connection.close()


def make_multipart_form(content, boundary="edge", name="file"):
    """The body and the headers of a multipart form with one file."""
    head = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


def send_raw_bytes(port, content, timeout=30):
    """Send bytes that need not be HTTP; returns the start of the answer, empty if refused."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        try:
            connection.sendall(content)
            return connection.recv(65536)
        except ConnectionError:  # the server closed the connection before all bytes were sent
            return b""


def read_until_closed(connection):
    """The bytes that a server sends until it closes the connection."""
    content = b""
    try:
        while received := connection.recv(65536):
            content += received
    except ConnectionResetError:  # it was closed with unread bytes
        pass
    return content


def read_metrics(port):
    """The server's metrics as numbers by name."""
    text = send_request(port, path="/metrics", method="GET")[2].decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}
