"""A publisher of weights on this machine: a small network, behind a local web server."""

import hashlib
import json
from contextlib import contextmanager

import torch
from safetensors.torch import save

from residua.config.papers import network
from residua.net.build import build
from residua.net.convert.weights import convert_to_project
from tests.data.file_server import run_file_server

NAMES = ("cat", "dog", "fish")
PATH_ON_HUB = "/owner/tiny/model.safetensors"


class WeightPublisher:
    """Offers `tiny.v1`, whose network is `name`, on a server and in a user's file."""

    def __init__(self, server, folder, name="cifar-resnet8"):
        self.server, self.user_file = server, folder / "registry.json"
        torch.manual_seed(0)
        self.name = name
        self.network = network(name, classes=len(NAMES))
        self.net = build(self.network, seed=5).eval()
        self.publish()
        self.offer()

    def publish(self):
        """Put the weights of `net` on the server."""
        self.content = save(
            {
                name: tensor.contiguous()
                for name, tensor in convert_to_project(
                    self.net.state_dict(), self.network, "timm"
                ).items()
            }
        )
        self.sha256 = hashlib.sha256(self.content).hexdigest()
        self.server.files[PATH_ON_HUB] = self.content

    def offer(self, **changes):
        """Write the user's file of weights, with changes to the fields of the entry."""
        entry = {
            "name": "tiny.v1",
            "network": self.name,
            "address": "https://huggingface.co/owner/tiny/resolve/main/model.safetensors",
            "sha256": self.sha256,
            "licence": "apache-2.0",
            "class_names": list(NAMES),
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "side": 32,
            "resize": 36,
            "top1_error": 0.25,
        }
        self.user_file.write_text(json.dumps({"weights": [entry | changes]}))

    @property
    def asked(self):
        """The paths and ranges that were asked for."""
        return self.server.asked


@contextmanager
def publish_weights(folder, monkeypatch, name="cifar-resnet8"):
    """Publish the weights as a mirror, with an empty cache in `folder`."""
    with run_file_server() as server:
        publisher = WeightPublisher(server, folder, name)
        monkeypatch.setenv("RESIDUA_WEIGHTS", str(publisher.user_file))
        monkeypatch.setenv("RESIDUA_MIRROR", server.url)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield publisher
