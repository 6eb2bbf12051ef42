"""Every engine is the same function as evaluation: pixels -> softmax of the network's scores."""

import pytest
import torch

import residua
from residua.data.augment import normalise
from residua.deploy.engine import engine
from residua.errors import UsageError
from residua.net.folder import from_pretrained, save_pretrained
from residua.spec.model import ModelConfig
from tests.peers import randomised

NETS = [
    "cifar-resnet8", "cifar-resnet8,shortcut=project", "cifar-preresnet20", "cifar-preresnet11", "cifar-highway8",
    "cifar-resnet8,join=shortcut-gate", "cifar-resnet8,head=vlad", "fc-resnet10", "resnet50,width=0.25",
]  # fmt: skip
