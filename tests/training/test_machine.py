"""The device that computes is the one that was asked for."""

from dataclasses import dataclass

import pytest
import torch

from residua import create_model
from residua.config.optimisers import Optimiser, Sgd
from residua.errors import UsageError
from residua.training import machine
from residua.training.machine import Machine, set_up_machine


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_cpu_computes_if_asked_for_whether_or_not_there_is_a_gpu(monkeypatch, has_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert set_up_machine("fp32", device_choice="cpu").device == torch.device("cpu")


def test_a_gpu_is_taken_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine, "set_deterministic_fp32_cudnn", lambda: None)
    for device_choice in ("auto", "cuda"):
        assert set_up_machine("fp32", device_choice=device_choice).device.type == "cuda"


def test_a_missing_gpu_and_an_unknown_device_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert set_up_machine("fp32").device.type == "cpu"
    with pytest.raises(UsageError, match="PyTorch finds no GPU on this machine: use the device"):
        set_up_machine("fp32", device_choice="cuda")
    with pytest.raises(UsageError, match="there is no device 'gpu': choose from auto, cpu, cuda"):
        set_up_machine("fp32", device_choice="gpu")


@dataclass(frozen=True, slots=True)
class UnknownRule(Optimiser):
    """An optimiser of another package, of which nothing is known."""

    states_per_parameter = 0
    description = "unknown"


def test_a_step_is_said_to_be_a_graph_only_if_its_update_can_be_held_by_one(monkeypatch):
    monkeypatch.setattr(Machine, "can_use_cuda_graph", lambda *arguments: True)
    here, net = set_up_machine("fp32", device_choice="cpu"), create_model("cifar-resnet8")
    described = [here.describe_engine(net, 1, rule)["step"] for rule in (Sgd(), UnknownRule())]
    assert described == ["one CUDA graph", "one operator after another"]
