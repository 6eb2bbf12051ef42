"""Fused kernels agree with float64 equations and with PyTorch, and change nothing else."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residua.net import fused_bn, fused_bn_kernels
from residua.net.create import create_model
from residua.training.machine import Machine

needs_kernels = pytest.mark.skipif(
    isinstance(fused_bn_kernels.load_kernel_library(), str),
    reason=fused_bn_kernels.describe_fused_kernels(),
)
# half the distance of bf16 neighbours, relative to the smaller, bounds the error of one rounding
BF16_ULP = 2.0**-8
SHAPES = [
    (4, 1, 5, 7),
    (3, 3, 8, 8),
    (1, 16, 9, 9),
    (5, 17, 3, 5),
    (32, 64, 8, 8),
    (64, 16, 32, 32),
    (2, 96, 7, 1),
]
ADDS_AND_RELU = [(adds, relu) for adds in (False, True) for relu in (False, True)]


def make_norm(c: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(c)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    return norm


def make_bf16_tensors(shape: tuple[int, ...], count: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        (torch.randn(shape) * 2 + 3).bfloat16().to(memory_format=torch.channels_last)
        for _ in range(count)
    ]


def compute_exact_batchnorm(
    module: nn.BatchNorm2d, x: torch.Tensor, residual: torch.Tensor | None, relu: bool
) -> torch.Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    y = (x - mean) / (var + module.eps).sqrt() * module.weight.view(1, -1, 1, 1) + module.bias.view(
        1, -1, 1, 1
    )
    y = y if residual is None else y + residual
    return y.relu() if relu else y


def run_forward_and_backward(module, compute, x, residual, dy):
    """y and the gradients of x, weight, bias and residual, in float64."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    residual = None if residual is None else residual.clone().requires_grad_()
    y = compute(module, x, residual)
    y.backward(dy.to(y.dtype))
    found = [y, x.grad, module.weight.grad, module.bias.grad] + (
        [] if residual is None else [residual.grad]
    )
    return [value.detach().double() for value in found]


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("adds", "relu"), ADDS_AND_RELU)
def test_forward_equals_the_equation_rounded_once(shape, adds, relu):
    x, residual = make_bf16_tensors(shape, 2)
    module = make_norm(shape[1])
    y = fused_bn.normalise_add_relu(module, x, residual if adds else None, relu)
    truth = compute_exact_batchnorm(
        copy.deepcopy(module).double(), x.double(), residual.double() if adds else None, relu
    )
    assert ((y.double() - truth).abs() <= BF16_ULP * truth.abs() * 1.001 + 2e-5).all(), (
        (y.double() - truth).abs().max()
    )
    assert y.is_contiguous(memory_format=torch.channels_last)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("adds", "relu"), ADDS_AND_RELU)
def test_gradients_are_as_close_to_float64_as_pytorchs(shape, adds, relu):
    x, residual, dy = make_bf16_tensors(shape, 3)
    residual = residual if adds else None
    dy = dy - 3
    module = make_norm(shape[1])

    def run_fused_norm(module, x, residual):
        return fused_bn.normalise_add_relu(module, x, residual, relu)

    def run_pytorch_norm(module, x, residual):
        y = F.batch_norm(x, None, None, module.weight, module.bias, training=True)
        y = y if residual is None else residual + y
        return y.relu() if relu else y

    fused = run_forward_and_backward(module, run_fused_norm, x, residual, dy)
    torchs = run_forward_and_backward(module, run_pytorch_norm, x, residual, dy)
    double = copy.deepcopy(module).double()
    truth = run_forward_and_backward(
        double,
        lambda m, x, r: compute_exact_batchnorm(m, x, r, relu),
        x.double(),
        None if residual is None else residual.double(),
        dy,
    )
    for name, mine, other, true in zip(
        ("y", "x", "weight", "bias", "residual"), fused, torchs, truth, strict=False
    ):
        error, theirs = (mine - true).norm() / true.norm(), (other - true).norm() / true.norm()
        assert error < 1e-2, f"{name}: {error:.1e}"
        assert error <= 1.05 * theirs + 1e-5, f"{name}: {error:.1e}, PyTorch {theirs:.1e}"


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_running_statistics_match_pytorch(shape):
    (x,) = make_bf16_tensors(shape, 1)
    module = make_norm(shape[1])
    fused = fused_bn.FusedSequential(module, nn.ReLU())
    ordinary = nn.BatchNorm2d(shape[1]).double()  # PyTorch sums in fp32 to 5e-5, residua to 3e-6
    for scale in (1, 2):
        fused(x * scale), ordinary((x * scale).double())
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(
            getattr(module, name), getattr(ordinary, name), rtol=1e-5, atol=1e-5, check_dtype=False
        )


@needs_kernels
def test_variance_is_accurate_when_the_mean_is_100_standard_deviations():
    x = (100 + torch.randn(8, 16, 32, 32)).bfloat16().to(memory_format=torch.channels_last)
    module = make_norm(16)
    fused_bn.FusedSequential(module)(x)
    torch.testing.assert_close(
        module.running_var.double(), 0.9 + 0.1 * x.double().var((0, 2, 3)), rtol=1e-6, atol=0
    )


@needs_kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_relu_does_not_hide_non_finite_values(value):
    for x in make_bf16_tensors((4, 17, 5, 5), 1):
        x[2, 3, 1, 1] = value
        module = fused_bn.FusedSequential(make_norm(17), nn.ReLU())
        x.requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y[:, 3].isnan().all()
        assert x.grad[:, 3].isnan().all()
        assert y[:, [i for i in range(17) if i != 3]].isfinite().all()


@needs_kernels
def test_results_are_bit_identical_on_repeat_and_for_any_number_of_threads():
    x, residual, dy = make_bf16_tensors((64, 16, 32, 32), 3)
    module, threads, results = make_norm(16), torch.get_num_threads(), []
    try:
        for n in (1, 1, 2, 3):
            torch.set_num_threads(n)
            results.append(
                run_forward_and_backward(
                    module,
                    lambda module, x, residual: fused_bn.normalise_add_relu(
                        module, x, residual, True
                    ),
                    x,
                    residual,
                    dy,
                )
            )
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


NETWORKS = [
    {"name": "cifar-resnet20"},
    {"name": "cifar-resnet20", "shortcut": "B"},
    {"name": "cifar-preresnet20"},
    {"name": "cifar-plain20"},
]


def make_ordinary_and_fused(**values):
    ordinary, fused = [
        create_model(**values, num_classes=10, input=(3, 16, 16)).to(
            memory_format=torch.channels_last
        )
        for _ in "ab"
    ]
    names, parameters = list(fused.state_dict()), list(fused.parameters())
    fused_bn.install_fused_batchnorm(fused)
    assert list(fused.state_dict()) == names
    assert all(a is b for a, b in zip(fused.parameters(), parameters, strict=True))
    return ordinary, fused


def compute_loss(net, autocast=True):
    torch.manual_seed(1)
    images, labels = (
        torch.randn(16, 3, 16, 16).to(memory_format=torch.channels_last),
        torch.arange(16) % 10,
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = net(images)
    return F.cross_entropy(scores.float(), labels)


@needs_kernels
@pytest.mark.parametrize("values", NETWORKS)
def test_a_network_with_fused_batchnorm_trains_like_the_ordinary_one(values):
    ordinary, fused = make_ordinary_and_fused(**values)
    norms = [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    relus = [m for m in fused.modules() if isinstance(m, nn.ReLU)]
    called = []
    for module in (*norms, *relus):
        module.register_forward_hook(lambda module, *_: called.append(module))
    losses = [compute_loss(net) for net in (ordinary, fused)]
    assert called == []  # the kernel computed every BN and every ReLU
    assert all(norm.num_batches_tracked == 1 for norm in norms)
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-2)
    truth = copy.deepcopy(ordinary)
    for loss in (*losses, compute_loss(truth, autocast=False)):
        loss.backward()
    theirs, mine, true = (
        torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (ordinary, fused, truth)
    )
    assert (mine - true).norm() < 1.1 * (theirs - true).norm()
    for a, b in zip(ordinary.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


@needs_kernels
@pytest.mark.parametrize("values", NETWORKS)
def test_evaluation_and_fp32_are_bit_identical_to_the_ordinary_network(values):
    ordinary, quick = make_ordinary_and_fused(**values)
    assert torch.equal(compute_loss(ordinary, autocast=False), compute_loss(quick, autocast=False))
    quick.load_state_dict(ordinary.state_dict())
    ordinary.eval(), quick.eval()
    for autocast in (False, True):
        assert torch.equal(compute_loss(ordinary, autocast), compute_loss(quick, autocast))


def test_batchnorm_is_fused_only_for_bf16_on_cpu():
    net = Machine(torch.device("cpu"), "fp32").prepare_model_in_place(create_model("cifar-resnet8"))
    assert not has_fused_modules(net)


def has_fused_modules(net):
    fused_classes = fused_bn.FusedSequential | fused_bn.FusedUnit
    return any(isinstance(module, fused_classes) for module in net.modules())


def test_the_reason_why_a_gpu_has_no_fused_kernels_is_reported(monkeypatch):
    gpu = torch.device("cuda")

    def describe_fused_kernels_anew(device):
        fused_bn_kernels.explain_missing_triton_kernels.cache_clear()
        net = create_model("cifar-resnet8")
        text = fused_bn.install_fused_batchnorm(net, device)
        assert not has_fused_modules(net)
        assert text == fused_bn_kernels.describe_fused_kernels(device)
        return text.removeprefix("no fused kernels: ")

    assert "none for the device mps" in describe_fused_kernels_anew(torch.device("mps"))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "not from NVIDIA" in describe_fused_kernels_anew(gpu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "T4")
    assert describe_fused_kernels_anew(gpu) == "the GPU T4 is too old for bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(fused_bn_kernels, "find_spec", lambda _: None)
    assert describe_fused_kernels_anew(gpu) == "the package triton is not installed"
    monkeypatch.setattr(fused_bn_kernels, "find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "residua.net.triton_batchnorm", None)
    assert "Triton failed (ModuleNotFoundError" in describe_fused_kernels_anew(gpu)
    fused_bn_kernels.explain_missing_triton_kernels.cache_clear()


def test_without_a_compiler_the_network_is_unchanged_and_the_reason_is_reported(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        for compiler, reason in (
            ("no-such-compiler", "No such file"),
            ("false", "C compiler failed"),
        ):
            monkeypatch.setenv("CC", compiler)
            fused_bn_kernels.load_kernel_library.cache_clear()
            net = create_model("cifar-resnet8")
            assert reason in fused_bn.install_fused_batchnorm(net)
            assert not has_fused_modules(net)
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tmp_path))
        fused_bn_kernels.load_kernel_library.cache_clear()
        assert (
            fused_bn.install_fused_batchnorm(create_model("cifar-resnet8"))
            == "no fused kernels: no C compiler was found"
        )
    finally:
        fused_bn_kernels.load_kernel_library.cache_clear()
