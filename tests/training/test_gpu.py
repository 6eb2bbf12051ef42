"""What the tests check on a CPU also holds on a GPU."""

import json

import pytest
import torch

from residua.cli.main import main
from residua.config.memory import estimate_activation_peak_bytes
from residua.config.optimisers import Sgd
from residua.errors import Interrupted
from residua.net.create import create_model
from residua.net.model_folder import from_pretrained
from residua.training.machine import set_up_machine
from residua.training.run import train_run
from residua.training.step import TrainingStep
from tests.training.short_runs import (
    ignore_progress,
    load_last_weights,
    make_digits_run,
    never_stop,
    read_metrics_without_times,
    stop_after,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "model", ["cifar-resnet20", "cifar-preresnet20,join=drop-path", "cifar-highway8"]
)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"probe": 0.4, "sizes": "[0.5, 1]", "ema": 0.9, "clip_norm": 0.5, "bn": "reestimated"},
        {"bn": "frozen", "layer_decay": 0.5, "augment__randaugment": 2},
    ],
    ids=["plain", "phases", "BN frozen"],
)
def test_an_interrupted_run_is_bit_identical(tmp_path, model, precision, fields):
    """With a CUDA graph, which is captured again after each interruption."""
    run = make_digits_run(model, steps=24, **fields)
    train_run(
        run,
        tmp_path / "whole",
        set_up_machine(precision),
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    for _ in range(2):
        with pytest.raises(Interrupted):
            train_run(
                run,
                tmp_path / "parts",
                set_up_machine(precision),
                resume=True,
                on_progress=ignore_progress,
                should_stop=stop_after(7),
            )
    train_run(
        run,
        tmp_path / "parts",
        set_up_machine(precision),
        resume=True,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics_without_times(tmp_path / "parts") == read_metrics_without_times(
        tmp_path / "whole"
    )


@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-preresnet20", "cifar-plain20"])
def test_scores_in_fp32_match_float64(model):
    """TF32 would be off by 1e-3."""
    here = set_up_machine("fp32")
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact, net = (
        create_model(model).double().train(),
        here.prepare_model_in_place(create_model(model)).train(),
    )
    with torch.no_grad():
        assert relative_error(net(images.to(here.device)), exact(images.double())) < 1e-4


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_gradients_in_fp32_match_float64(stride):
    """For one layer: in a deep net rounding flips some ReLUs, and gradients change abruptly."""
    here = set_up_machine("fp32")
    exact = torch.nn.Conv2d(16, 32, 3, stride, 1, dtype=torch.float64)
    layer = here.prepare_model_in_place(torch.nn.Conv2d(16, 32, 3, stride, 1))
    layer.load_state_dict(exact.state_dict())
    images = torch.randn(
        32, 16, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    inputs = images.clone().requires_grad_(), images.float().to(here.device).requires_grad_()
    for net, x in zip((exact, layer), inputs, strict=True):
        net(x).square().sum().backward()
    assert relative_error(inputs[1].grad, inputs[0].grad) < 1e-5
    assert relative_error(layer.weight.grad, exact.weight.grad) < 1e-5


def relative_error(x, expected):
    return (x.cpu().double() - expected).norm() / expected.norm()


def test_activation_checkpointing_with_drop_path_is_bit_identical():
    ends = []
    for by in ("none", "unit", "sqrt"):
        here = set_up_machine("bf16", by)
        net = here.prepare_model_in_place(create_model("cifar-resnet20,join=drop-path")).train()
        step = TrainingStep(net, Sgd(), here)
        assert step.uses_cuda_graph == (by == "none")  # drop-path would be drawn again
        for i in range(6):
            torch.manual_seed(i)
            step(
                torch.randn(16, 3, 32, 32).to(here.device),
                torch.arange(16, device=here.device) % 10,
                0.1,
            )
        ends.append(net.state_dict())
    for other in ends[1:]:
        assert all(torch.equal(other[name], value) for name, value in ends[0].items())


@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-preresnet20", "cifar-highway8"])
def test_activation_checkpointing_inside_a_cuda_graph_is_bit_identical(model):
    ends = []
    for by in ("none", "unit", "sqrt"):
        here = set_up_machine("bf16", by)
        net = here.prepare_model_in_place(create_model(model)).train()
        step = TrainingStep(net, Sgd(), here)
        losses = []
        for i in range(7):
            generator = torch.Generator().manual_seed(i)
            images = torch.randn(16, 3, 32, 32, generator=generator).to(here.device)
            losses.append(step(images, torch.arange(16, device=here.device) % 10, 0.1)[0])
        assert step.graphs.are_captured
        ends.append([*net.state_dict().values(), *losses])
    for other in ends[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(ends[0], other, strict=True))


@pytest.mark.parametrize("by", ["none", "sqrt"])
@pytest.mark.parametrize("model", ["cifar-resnet20", "cifar-resnet110"])
def test_the_memory_estimate_is_within_15_percent(model, by):
    here = set_up_machine("bf16", by)
    net = here.prepare_model_in_place(create_model(model)).train()
    step = TrainingStep(net, Sgd(), here)
    step.uses_cuda_graph = False
    images, labels = (
        torch.randn(128, 3, 32, 32, device=here.device),
        torch.arange(128, device=here.device) % 10,
    )
    step(images, labels, 0.0)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated() - images.nbytes - labels.nbytes
    torch.cuda.reset_peak_memory_stats()
    step(images, labels, 0.0)
    torch.cuda.synchronize()
    measured = torch.cuda.max_memory_allocated() - before
    assert estimate_activation_peak_bytes(net.plan, 128, by, bf16=True) == pytest.approx(
        measured, rel=0.15
    )


def test_all_commands_run_on_a_gpu(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert (
        main(["train", "digits", "--model", "cifar-resnet20", "--epochs", "4", "--out", out]) == 0
    )
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["device"]
        == torch.cuda.get_device_name()
    )
    signals, lesion = (
        ["signals", out, "--out", out + "-signals"],
        ["lesion", out, "digits", "--out", out + "-lesion"],
    )
    for command in (["evaluate", out, "digits", "--json"], signals, lesion, ["report", out]):
        assert main(command) == 0, command
    capsys.readouterr()
    on_gpu = from_pretrained(tmp_path / "run" / "last").to("cuda").eval()
    images = torch.rand(8, 1, 8, 8)
    on_cpu = from_pretrained(tmp_path / "run" / "last").eval()
    torch.testing.assert_close(on_gpu(images.cuda()).cpu(), on_cpu(images), rtol=1e-4, atol=1e-4)


def test_a_study_trains_on_a_gpu(tmp_path):
    study = [
        "study",
        "--families",
        "plain",
        "resnet",
        "--depths",
        "8",
        "20",
        "--seeds",
        "0",
        "--steps",
        "30",
    ]
    assert main([*study, "--out", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "results.json").read_text())["cells"]) == 4


def test_a_step_that_does_not_fit_is_refused_in_one_sentence(tmp_path, capsys):
    """The process may use 256 MiB, of which the estimate before the run knows nothing."""
    limit = 2**28 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit)
    torch.cuda.empty_cache()
    try:
        arguments = ["--model", "cifar-resnet110", "--batch-size", "1000", "--steps", "9"]
        assert main(["train", "digits", *arguments, "--out", str(tmp_path / "run")]) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "needs more memory than the GPU has free: add --recompute" in capsys.readouterr().err
