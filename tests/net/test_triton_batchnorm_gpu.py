"""The Triton kernels of BN, compiled for this machine's GPU, agree with float64 and repeat."""

import copy

import pytest
import torch
import torch.nn.functional as F

from residua.net.create import create_model
from residua.net.fused_bn import install_fused_batchnorm
from residua.net.fused_bn_kernels import describe_fused_kernels, explain_missing_kernels

GPU = torch.device("cuda")
MISSING = explain_missing_kernels(GPU) if torch.cuda.is_available() else "there is no GPU"
pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
if MISSING is None:
    from residua.net.triton_batchnorm import TritonBatchNormAddReLUFunction
    from tests.net.batchnorm_checks import check_against_float64, make_inputs, run_kernels

SHAPES = [(128, 16, 32, 32), (128, 64, 8, 8), (32, 2048, 7, 7), (1000, 24, 9, 9), (2, 17, 1, 1)]
ADDS_AND_RELU = [(adds, relu) for adds in (False, True) for relu in (False, True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("adds", "relu"), ADDS_AND_RELU)
def test_outputs_and_gradients_on_a_gpu_are_those_of_float64_rounded_once(shape, adds, relu):
    check_against_float64(*make_inputs(shape, adds, GPU), relu)


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_variance_on_a_gpu_is_accurate_where_the_mean_is_large(shape):
    check_against_float64(*make_inputs(shape, True, GPU, mean=100, std=0.1), True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("adds", [False, True])
def test_every_element_is_written_and_20_repeats_have_the_same_bits(shape, adds):
    """Memory that PyTorch does not initialise is filled with NaN."""
    norm, x, residual, dy = make_inputs(shape, adds, GPU)
    state = copy.deepcopy(norm.state_dict())
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        results = []
        for _ in range(20):
            norm.load_state_dict(state)
            results.append([*run_kernels(norm, x, residual, dy, True), *norm.state_dict().values()])
    finally:
        torch.use_deterministic_algorithms(False)
    for tensor in results[0]:
        assert tensor.isfinite().all()
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_non_finite_values_are_not_hidden_on_a_gpu():
    norm, x, _, dy = make_inputs((64, 16, 8, 8), False, GPU)
    x[40, 3, 1, 1] = float("nan")
    y, dx, *_ = run_kernels(norm, x, None, dy, True)
    others = [i for i in range(16) if i != 3]
    for result in (y, dx):
        assert result[:, 3].isnan().all()
        assert result[:, others].isfinite().all()


@pytest.mark.skipif(
    MISSING is None and torch.cuda.get_device_properties(GPU).total_memory < 40e9,
    reason="needs 40 GB of GPU memory",
)
def test_tensors_of_more_than_2_to_the_31_elements_are_normalised_to_the_end():
    norm, block, _, _ = make_inputs((16, 64, 32, 32), False, GPU)
    repeats = 2100  # 2.2e9 elements
    x = block.permute(0, 2, 3, 1).repeat(repeats, 1, 1, 1).permute(0, 3, 1, 2).requires_grad_()
    assert x.numel() > 2**31
    assert x.is_contiguous(memory_format=torch.channels_last)
    y = TritonBatchNormAddReLUFunction.apply(x, None, norm.weight, norm.bias, norm, True)
    with torch.no_grad():
        truth = F.batch_norm(
            block.double(), None, None, norm.weight.double(), norm.bias.double(), training=True
        ).relu()
        for at in (0, repeats // 2, repeats - 1):
            part = y[16 * at : 16 * (at + 1)].double()
            torch.testing.assert_close(part, truth, rtol=2**-8, atol=1e-4)
    y.backward(x.detach())
    gradients = x.grad
    assert torch.equal(gradients[:16], gradients[-16:])


def compute_loss_gradients(net, autocast):
    torch.manual_seed(1)
    images = torch.randn(128, 3, 32, 32, device=GPU).to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        scores = net(images)
    F.cross_entropy(scores.float(), torch.arange(128, device=GPU) % 10).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20"])
def test_gradients_of_a_network_on_a_gpu_are_as_close_to_fp32_as_pytorchs(name):
    plain, fused, exact = [create_model(name, num_classes=10) for _ in "abc"]
    assert install_fused_batchnorm(fused, GPU) == describe_fused_kernels(GPU)
    for net in (plain, fused, exact):
        net.to(GPU, memory_format=torch.channels_last)
    true = compute_loss_gradients(exact, autocast=False)
    mine, theirs = (compute_loss_gradients(net, autocast=True) for net in (fused, plain))
    assert (mine - true).norm() < 1.1 * (theirs - true).norm()
    for a, b in zip(plain.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
