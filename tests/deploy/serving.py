"""A small network behind a real server on a free port, and what asks it."""

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
from residua.deploy.engine import torch_engine
from residua.deploy.serve import listening, server
from residua.spec.model import ModelConfig
from tests.peers import randomised

CLASSES = ("ant", "bee", "cat")


def small(name="cifar-resnet8"):
    """A net and its config."""
    net = randomised(residua.create_model(name, num_classes=3, input=(3, 16, 16)))
    return net, ModelConfig(network=net.plan.network, classes=CLASSES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), temperature=0.1)


def small_engine():
    return torch_engine(*small(), "fp32")


def photograph(seed=0, kind="PNG", size=(40, 30)):
    """The bytes of an image file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind)
    return file.getvalue()


@contextmanager
def running(service):
    """The port of a server that answers with `service`."""
    torch.set_num_threads(1)
    with listening("127.0.0.1", 0) as listener:
        runs = server(service)
        thread = threading.Thread(target=lambda: runs.run(sockets=[listener]))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            runs.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def ask(port, body=None, path="/predict", headers=None, method="POST"):
    """Status, headers, and what the JSON of the answer says."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        return (
            answer.status,
            dict(answer.getheaders()),
            json.loads(content) if "json" in answer.headers["content-type"] else content,
        )
    finally:
        connection.close()


def form(content, boundary="edge", name="file"):
    """A multipart form of one file: body and headers."""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def raw(port, content, timeout=30):
    """What the server answers to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as wire:
        try:
            wire.sendall(content)
            return wire.recv(65536)
        except ConnectionError:  # refused before all was sent
            return b""
