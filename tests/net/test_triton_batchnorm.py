"""The Triton kernels of BN, run by Triton's interpreter, agree with float64 and with PyTorch.

The interpreter must be chosen before anything imports triton.  So these tests run in a process of
their own, which the first test starts.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from residua.net import fused_bn
from residua.net.create import create_model

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
if IS_INTERPRETED:
    from tests.triton_interpreter import mend_triton_interpreter

    mend_triton_interpreter()
    from residua.net import triton_batchnorm
    from residua.net.triton_batchnorm import (
        BatchNormLaunches,
        KernelLaunch,
        TritonBatchNormAddReLUFunction,
        choose_launches,
        plan_kernel,
        run_trial_kernels,
    )
    from tests.net.batchnorm_checks import check_against_float64, make_inputs, run_kernels

interpreted = pytest.mark.skipif(not IS_INTERPRETED, reason="runs in Triton's interpreter")
ADDS_AND_RELU = [(adds, relu) for adds in (False, True) for relu in (False, True)]
SHAPES = [
    (2, 16, 1, 1),
    (3, 1, 5, 7),
    (2, 24, 9, 9),
    (1, 80, 4, 4),
    (2, 112, 3, 3),
    (5, 17, 3, 5),
    (16, 64, 8, 8),
    (1, 300, 2, 1),
]


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the process that the test starts")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_pass_the_tests_below_in_tritons_interpreter():
    root = Path(__file__).parents[2]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert tests.returncode == 0, tests.stdout[-5000:] + tests.stderr[-2000:]
    assert " passed" in tests.stdout
    assert "2 skipped" in tests.stdout


COMPILE_KERNELS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from residua.net import triton_bn_kernels as kernels
from residua.net.triton_batchnorm import KernelLaunch, plan_kernel

plan = plan_kernel(10_000, 24, KernelLaunch(64)).arguments
types = dict.fromkeys(kernels.SIZES, "i32") | {"eps": "fp32", "momentum": "fp32"}
images = ("x", "y", "residual", "dy", "dx", "dresidual", "gradient_after_relu")
types |= dict.fromkeys(images, "*bf16") | {"batch_count": "*i64"}
for name in ("sum_batch", "normalise", "sum_gradients", "input_gradient"):
    kernel = getattr(kernels, name + "_kernel")
    constants, signature, alignment = {}, {}, {}
    for i, p in enumerate(kernel.params):
        signature[p.name] = "constexpr" if p.is_constexpr else types.get(p.name, "*fp32")
        if p.is_constexpr:
            constants[p.name] = plan.get(p.name, 128 if p.name == "BLOCK_PARTIALS" else True)
        elif signature[p.name][0] == "*":
            alignment[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, alignment)
    compiled = triton.compile(source, GPUTarget("cuda", 80, 32), {"num_warps": 8})
    print("16-byte loads:", compiled.asm["ptx"].count("ld.global.v4.b32"))
"""


@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_compile_without_a_gpu_and_load_16_bytes_at_a_time(tmp_path):
    compiling = subprocess.run(
        [sys.executable, "-c", COMPILE_KERNELS],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert compiling.returncode == 0, compiling.stderr[-3000:]
    lines = compiling.stdout.splitlines()
    assert len(lines) == 4
    assert all(int(line.removeprefix("16-byte loads:")) >= 6 for line in lines), lines


@interpreted
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("adds", "relu"), ADDS_AND_RELU)
def test_outputs_and_gradients_are_those_of_float64_rounded_once(shape, adds, relu):
    check_against_float64(*make_inputs(shape, adds), relu)


@pytest.fixture
def few_programs(monkeypatch):
    """Few programs of many blocks of rows each, as for large tensors; the last has fewer rows."""
    launches = BatchNormLaunches(KernelLaunch(3, 512), KernelLaunch(5, 1024, 4))
    monkeypatch.setattr(triton_batchnorm, "choose_launches", lambda *_: launches)


@interpreted
@pytest.mark.parametrize(("adds", "relu"), ADDS_AND_RELU)
def test_a_program_may_compute_many_blocks_of_rows(adds, relu, few_programs):
    check_against_float64(*make_inputs((7, 70, 9, 9), adds), relu)


@interpreted
@pytest.mark.parametrize(("mean", "std"), [(100, 0.1), (100, 1), (-3e4, 200), (0, 1e-3)])
def test_variance_is_accurate_where_the_mean_is_large(mean, std, few_programs):
    check_against_float64(*make_inputs((16, 24, 8, 8), True, mean=mean, std=std), True)


@interpreted
def test_an_outlier_in_the_first_row_does_not_spoil_the_variance(few_programs):
    norm, x, residual, dy = make_inputs((16, 16, 8, 8), False, mean=100, std=1)
    x[0, :, 0, 0] = 0
    check_against_float64(norm, x, residual, dy, True)


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_relu_does_not_hide_non_finite_values_from_triton_kernels(value):
    norm, x, _, dy = make_inputs((4, 17, 5, 5), False)
    x[2, 3, 1, 1] = value
    y, dx, *_ = run_kernels(norm, x, None, dy, True)
    others = [i for i in range(17) if i != 3]
    for result in (y, dx):
        assert result[:, 3].isnan().all()
        assert result[:, others].isfinite().all()


@interpreted
def test_the_trial_fails_only_if_the_kernels_compute_something_else(monkeypatch):
    run_trial_kernels(torch.device("cpu"))
    wrong = torch.ones(1), None
    monkeypatch.setattr(triton_batchnorm, "launch_forward", lambda *a, **options: wrong)
    with pytest.raises(RuntimeError, match="a constant normalised is not 0"):
        run_trial_kernels(torch.device("cpu"))


@interpreted
def test_every_element_is_written_and_results_repeat():
    """Memory that PyTorch does not initialise is filled with NaN."""
    inputs = make_inputs((8, 24, 8, 8), True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        first, second = (run_kernels(*inputs, True) for _ in "ab")
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@interpreted
def test_statistics_are_not_updated_if_the_batchnorm_does_not_track_them():
    norm, x, _, dy = make_inputs((4, 16, 4, 4), False)
    norm.track_running_stats = False  # as activation checkpointing does
    run_kernels(norm, x, None, dy, True)
    assert not norm.running_mean.any()
    assert (norm.running_var == 1).all()
    assert norm.num_batches_tracked == 0


@interpreted
@pytest.mark.parametrize("channels", [1, 3, 16, 24, 64, 80, 640, 2048])
def test_programs_cover_every_row_and_channel_once(channels):
    for rows in (2, 49, 64, 8192, 131_072, 3_211_264, 2**31 + 5):
        launches = [choose_launches(rows, channels, way) for way in ("forward", "backward")]
        for launch in (part for both in launches for part in (both.sums, both.apply)):
            plan = plan_kernel(rows, channels, launch)
            own_rows = plan.arguments["rows_per_program"]
            assert (plan.grid[0] - 1) * own_rows < rows <= plan.grid[0] * own_rows
            tile = plan.arguments["BLOCK_CHANNELS"]
            assert (plan.grid[1] - 1) * tile < channels <= plan.grid[1] * tile
            if rows * channels < 2**34:  # offsets within a program are 32 bits
                assert own_rows * channels < 2**31


@pytest.fixture
def triton_on_cpu(monkeypatch):
    """Fused modules use the interpreted kernels."""
    monkeypatch.setattr(fused_bn, "explain_missing_kernels", lambda device: None)
    monkeypatch.setattr(
        fused_bn, "choose_kernel_function", lambda device: TritonBatchNormAddReLUFunction
    )


def compute_gradients(net, seed, autocast):
    torch.manual_seed(seed)
    images = torch.randn(8, 3, 8, 8).to(memory_format=torch.channels_last)
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        scores = net(images)
    F.cross_entropy(scores.float(), torch.arange(8)).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def sum_squared_errors(found, true, prefix):
    return sum(
        (found[name] - true[name]).square().sum() for name in true if name.startswith(prefix)
    )


@interpreted
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet14"])
def test_gradients_of_a_network_are_as_close_to_fp32_as_pytorchs(name, triton_on_cpu):
    plain, fused, exact = [
        create_model(name, num_classes=8, input=(3, 8, 8)).to(memory_format=torch.channels_last)
        for _ in "abc"
    ]
    fused_bn.install_fused_batchnorm(fused)
    norms = [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    relus = [module for module in fused.modules() if isinstance(module, nn.ReLU)]
    called = []
    for layer in (*norms, *relus):
        layer.register_forward_hook(lambda module, *_: called.append(module))
    units = {"": 1.1, "stem": 1.2, "head": 1.2} | {
        ".".join(key.split(".")[:3]): 1.2 for key in exact.state_dict() if key.startswith("stages")
    }
    errors = {unit: torch.zeros(2) for unit in units}
    for seed in range(4):
        true = compute_gradients(exact, seed, autocast=False)
        for i, net in enumerate((fused, plain)):
            found = compute_gradients(net, seed, autocast=True)
            for unit, error in errors.items():
                error[i] += sum_squared_errors(found, true, unit)
    assert called == []
    assert all(norm.num_batches_tracked == 4 for norm in norms)
    for unit, (mine, theirs) in errors.items():
        assert mine.sqrt() < units[unit] * theirs.sqrt(), (unit, (mine / theirs).sqrt())
