"""What holds on a CPU holds on a GPU too."""

import json

import pytest
import torch

from residua.cli.main import main
from residua.errors import Interrupted
from residua.net.build import create_model
from residua.net.folder import from_pretrained
from residua.spec.memory import step_bytes
from residua.spec.recipe import Sgd
from residua.train.machine import machine
from residua.train.run import train
from residua.train.step import Step
from tests.train.runs import after, digits_run, lines, never, silent, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-preresnet20,join=drop-path", "cifar-highway8"])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, model, precision):
    """With a step as one graph, captured anew after each interruption."""
    run = digits_run(model, steps=24)
    train(run, tmp_path / "whole", machine(precision), tell=silent, stop=never)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(run, tmp_path / "parts", machine(precision), resume=True, tell=silent, stop=after(7))
    train(run, tmp_path / "parts", machine(precision), resume=True, tell=silent, stop=never)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-preresnet20", "cifar-plain20"])
def test_scores_in_fp32_are_those_of_float64(model):
    """TF32 would miss them by 1e-3."""
    here = machine("fp32")
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact, net = create_model(model).double().train(), here.place(create_model(model)).train()
    with torch.no_grad():
        assert off(net(images.to(here.device)), exact(images.double())) < 1e-4


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_gradients_in_fp32_are_those_of_float64(stride):
    """Of one layer, as a deep net's gradients jump where rounding moves a sum over the edge of a ReLU."""
    here = machine("fp32")
    exact = torch.nn.Conv2d(16, 32, 3, stride, 1, dtype=torch.float64)
    layer = here.place(torch.nn.Conv2d(16, 32, 3, stride, 1))
    layer.load_state_dict(exact.state_dict())
    images = torch.randn(32, 16, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = images.clone().requires_grad_(), images.float().to(here.device).requires_grad_()
    for net, x in zip((exact, layer), inputs, strict=True):
        net(x).square().sum().backward()
    assert off(inputs[1].grad, inputs[0].grad) < 1e-5
    assert off(layer.weight.grad, exact.weight.grad) < 1e-5


def off(x, wanted):
    return (x.cpu().double() - wanted).norm() / wanted.norm()


def test_recomputing_changes_no_bit():
    ends = []
    for by in ("none", "unit", "sqrt"):
        here = machine("bf16", by)
        net = here.place(create_model("cifar-resnet20,join=drop-path")).train()
        step = Step(net, Sgd(), here)
        step.whole = step.backward
        for i in range(3):
            torch.manual_seed(i)
            step(torch.randn(16, 3, 32, 32).to(here.device), torch.arange(16, device=here.device) % 10, 0.1)
        ends.append(net.state_dict())
    for other in ends[1:]:
        assert all(torch.equal(other[name], value) for name, value in ends[0].items())


@pytest.mark.parametrize("by", ["none", "sqrt"])
@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-resnet110"])
def test_the_memory_foreseen_is_within_15_percent(model, by):
    here = machine("bf16", by)
    net = here.place(create_model(model)).train()
    step = Step(net, Sgd(), here)
    step.whole = step.backward
    images, labels = torch.randn(128, 3, 32, 32, device=here.device), torch.arange(128, device=here.device) % 10
    step(images, labels, 0.0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated() - images.nbytes - labels.nbytes
    torch.cuda.reset_peak_memory_stats()
    step(images, labels, 0.0)
    torch.cuda.synchronize()
    measured = torch.cuda.max_memory_allocated() - before
    assert step_bytes(net.plan, 128, by, bf16=True) == pytest.approx(measured, rel=0.15)


def test_a_user_trains_evaluates_predicts_and_examines_by_it(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "digits", "--model", "cifar-resnet20", "--epochs", "4", "--out", out]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["device"] == torch.cuda.get_device_name()
    signals, lesion = ["signals", out, "--out", out + "-signals"], ["lesion", out, "digits", "--out", out + "-lesion"]
    for command in (["evaluate", out, "digits", "--json"], signals, lesion, ["report", out]):
        assert main(command) == 0, command
    capsys.readouterr()
    on_gpu = from_pretrained(tmp_path / "run" / "last").to("cuda").eval()
    images = torch.rand(8, 1, 8, 8)
    on_cpu = from_pretrained(tmp_path / "run" / "last").eval()
    torch.testing.assert_close(on_gpu(images.cuda()).cpu(), on_cpu(images), rtol=1e-4, atol=1e-4)


def test_a_study_trains_by_it(tmp_path):
    study = ["study", "--families", "plain", "resnet", "--depths", "8", "20", "--seeds", "0", "--steps", "30"]
    assert main([*study, "--out", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 4
