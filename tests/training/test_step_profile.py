"""Where a step goes: the parts have the times of the profiler, and kernels those who start them."""

import json
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from residua.config.dataset import get_dataset
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.data.batches import make_training_batches
from residua.data.images import Images
from residua.errors import UsageError
from residua.training import product_rate, step_profile
from residua.training.distributed import DataParallelGroup
from residua.training.machine import set_up_machine
from residua.training.step_parts import (
    BATCHES,
    BATCHNORM,
    CONVOLUTION,
    OPTIMISER,
    OTHER,
    PARTS,
    WAITING,
    classify_kernel,
    list_device_work,
    sum_cpu_parts,
    sum_gpu_parts,
)
from residua.training.step_profile import (
    LastPhase,
    choose_traced_steps,
    profile_run,
    read_trace_events,
    scale_parts,
)


def make_steps(recipe_name="small", device="cpu", model="cifar-resnet8", **changes):
    data = get_dataset("cifar10" if model.startswith("cifar-record") else "digits")
    run_recipe = replace(recipe(recipe_name), batch_size=32, **changes)
    run = Run(network(model, input=data.input, classes=10), data.name, run_recipe, 0)
    machine = set_up_machine("fp32" if device == "cpu" else "bf16", device_choice=device)
    pixels = torch.randint(256, (200, *data.input), dtype=torch.uint8)
    images = Images(pixels, torch.arange(200) % 10).to(machine.device)
    batches = make_training_batches(images, run_recipe, data, data.mean, data.std, 0, None)
    return LastPhase(run, run_recipe, batches, machine, run_recipe.total_steps(len(images)))


def test_the_parts_sum_to_the_times_of_the_profiler_itself(tmp_path):
    steps = make_steps()
    step_profile.prepare_profiler()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        steps.take_step()
    profiler.export_chrome_trace(str(tmp_path / "t.json"))
    times = sum_cpu_parts(json.loads((tmp_path / "t.json").read_text())["traceEvents"])
    averages = {average.key: average for average in profiler.key_averages()}
    own = {name: average.self_cpu_time_total for name, average in averages.items()}
    assert times[WAITING] == pytest.approx(own.pop("residua: step"), rel=0.01)
    assert sum(times.values()) - times[WAITING] == pytest.approx(sum(own.values()), rel=0.01)
    for part, names in (
        (
            CONVOLUTION,
            ("aten::conv2d", "autograd::engine::evaluate_function: ConvolutionBackward0"),
        ),
        (
            BATCHNORM,
            ("aten::batch_norm", "autograd::engine::evaluate_function: NativeBatchNormBackward0"),
        ),
        (BATCHES, ("residua: batch",)),
    ):
        assert times[part] == pytest.approx(
            sum(averages[name].cpu_time_total for name in names), rel=0.01
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sizes": (0.5,)},
        {"freeze": True},
        {"stem": 0.1},
        {"model": "cifar-preresnet8", "stem": 0.1},
        {"model": "cifar-record8,width=0.25"},
        {"model": "cifar-record8,width=0.25", "stem": 0.1},
        {"model": "cifar-record8,width=0.25", "stem": 1.0},
    ],
    ids=str,
)
def test_the_operations_are_those_that_pytorch_counts(changes):
    steps = make_steps(**changes)
    with FlopCounterMode(display=False) as counter:
        steps.take_step()
    assert counter.get_total_flops() == steps.count_operations()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize64x32x64_"
            "warpgroupsize1x1x1_g1_execute_segment_k_off_kernel__5x_cudnn",
            CONVOLUTION,
        ),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nhwc", CONVOLUTION),
        (
            "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816dgrad_optimized>",
            CONVOLUTION,
        ),
        ("void wgrad2d_grouped_direct_kernel<__nv_bfloat16, float>(...)", CONVOLUTION),
        ("void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true>(...)", CONVOLUTION),
        ("convolve", CONVOLUTION),
        ("spread_gradient", CONVOLUTION),
        ("sum_weight_gradient", CONVOLUTION),
        ("add_partial_sums", CONVOLUTION),
        ("void cudnn::batchnorm_fwtr_nhwc_semiPersist<__nv_bfloat16, float>(...)", BATCHNORM),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1>(...)", BATCHNORM),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel<...>", BATCHNORM),
        ("sum_batch_kernel", BATCHNORM),
        ("normalise_kernel", BATCHNORM),
        ("sum_gradients_kernel", BATCHNORM),
        ("input_gradient_kernel", BATCHNORM),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", OPTIMISER),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor>", OTHER),
        ("nvjet_hsh_64x8_64x16_4x1_v_bz_TNT", OTHER),
        ("Memset (Device)", OTHER),
    ],
)
def test_kernels_are_known_by_their_names(name, part):
    assert classify_kernel(name) == part


class FakeTrace:
    """Writes events as the profiler does, of a host and of a GPU, in microseconds."""

    def __init__(self):
        self.events, self.correlation = [], 0

    def add(self, category, name, start, duration, thread=1, **arguments):
        self.events.append(
            {
                "ph": "X",
                "cat": category,
                "name": name,
                "ts": start,
                "dur": duration,
                "tid": thread,
                "args": arguments,
            }
        )

    def launch(self, kernels, at, call="cudaLaunchKernel", thread=1):
        self.correlation += 1
        self.add("cuda_runtime", call, at, 1, thread, correlation=self.correlation)
        for name, start, duration, grid in kernels:
            self.add("kernel", name, start, duration, 7, correlation=self.correlation, grid=grid)


FILL, COPY, GEMM = "vectorized_elementwise_kernel", "Memcpy DtoD", "nvjet_tst_64x64"
KERNELS = [  # name, start, duration, grid
    (FILL, 100, 10, [1]),  # of the batch
    ("sm90_xmma_fprop_implicit_gemm", 110, 50, [8]),
    (FILL, 160, 20, [1]),  # a ReLU
    (GEMM, 180, 5, [2]),  # the last layer
    (GEMM, 190, 30, [2]),  # of Muon
    ("multi_tensor_apply_kernel", 220, 10, [4]),
]


def make_trace_without_graph():
    trace = FakeTrace()
    trace.add("user_annotation", "residua: step", 0, 400)
    trace.add("user_annotation", "residua: batch", 1, 9)
    trace.launch(KERNELS[:1], 5)
    trace.add("cpu_op", "aten::cudnn_convolution", 10, 9)
    trace.launch(KERNELS[1:2], 12)
    trace.add("cpu_op", "aten::relu", 20, 9)
    trace.launch(KERNELS[2:3], 22)
    trace.add("cpu_op", "aten::addmm", 20, 9, thread=2)
    trace.launch(KERNELS[3:4], 22.5, thread=2)
    trace.add("user_annotation", "Optimizer.step#MuonOptimiser.step", 40, 50)
    trace.add("cpu_op", "aten::bmm", 50, 10)
    trace.launch(KERNELS[4:5], 51, "cuLaunchKernelEx")
    trace.launch(KERNELS[5:6], 70)
    return trace.events


def test_a_gpus_kernels_belong_to_the_range_or_the_operator_that_starts_them():
    expected = {
        CONVOLUTION: 50,
        BATCHNORM: 0,
        OTHER: 25,
        OPTIMISER: 40,
        BATCHES: 10,
        WAITING: 0,
    }
    assert sum_gpu_parts(make_trace_without_graph()) == expected


def test_the_kernels_of_a_graph_have_the_parts_of_a_step_without_a_graph():
    trace = FakeTrace()
    for start in (0, 1000):
        trace.add("user_annotation", "residua: step", start, 10)
        moved = [(name, at + start, duration, grid) for name, at, duration, grid in KERNELS]
        # the batch runs beside the convolution now, and 4 us longer than it
        moved[0] = (FILL, 105 + start, 59, [1])
        moved[2] = (FILL, 170 + start, 20, [1])
        trace.launch([*moved, (GEMM, 300 + start, 7, [3])], start + 5, "cudaGraphLaunch")
    times = sum_gpu_parts(trace.events, make_trace_without_graph())
    assert times[CONVOLUTION] == 2 * 50
    assert times[BATCHES] == 2 * (59 - 50)
    assert times[OPTIMISER] == 2 * 40
    assert times[OTHER] == 2 * (20 + 7)  # the last layer runs beside the ReLU here
    orphans = [{**e, "args": {**e["args"], "correlation": 99}} for e in trace.events]
    assert sum_gpu_parts(orphans, make_trace_without_graph())[CONVOLUTION] == 2 * 50
    by_name = sum_gpu_parts(trace.events)
    assert by_name[OPTIMISER] == 2 * 10  # without that step, products of matrices are unknown


def test_a_gpu_waits_for_the_rest_of_the_step_and_is_never_busier_than_it():
    parts = dict.fromkeys(PARTS, 0.0) | {CONVOLUTION: 2.0, OPTIMISER: 1.0}
    assert {p["name"]: p["milliseconds"] for p in scale_parts(parts, 5.0)}[WAITING] == 2
    busy = {p["name"]: p["milliseconds"] for p in scale_parts(parts, 1.5)}
    assert (busy[CONVOLUTION], busy[OPTIMISER], busy[WAITING]) == (1.0, 0.5, 0.0)


def test_the_larger_product_is_taken_unless_it_takes_too_long(monkeypatch):
    monkeypatch.setattr(product_rate, "PRODUCT_SIDES", (256, 512))
    machine = set_up_machine("fp32", device_choice="cpu")
    assert product_rate.measure_product_rate(machine)[0] == 512
    monkeypatch.setattr(product_rate, "MAX_PRODUCT_SECONDS", 0.0)
    assert product_rate.measure_product_rate(machine)[0] == 256


def test_few_steps_of_a_deep_or_slow_network_are_traced():
    assert choose_traced_steps(20, 0.1) == 5
    assert choose_traced_steps(1202, 0.1) == 1
    assert choose_traced_steps(50, 4.0) == 2


def test_several_processes_are_not_profiled(tmp_path):
    run_recipe = recipe("small")
    run = Run(network("cifar-resnet8", input=(1, 8, 8), classes=10), "digits", run_recipe, 0)
    machine = replace(set_up_machine("fp32"), group=DataParallelGroup(0, 2))
    with pytest.raises(UsageError, match="without torchrun"):
        profile_run(run, machine, tmp_path / "PROFILE.json.gz")


def test_the_steps_do_not_change_the_weights():
    steps = make_steps()
    before = [parameter.clone() for parameter in steps.training_step.net.parameters()]
    steps.take_step()
    after = steps.training_step.net.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_parts_of_a_graph_are_those_of_a_step_without_one():
    steps = make_steps("fast", "cuda")
    events = read_trace_events(steps.trace_steps(3))
    reference = steps.trace_step_without_graph()
    with_graph = [work for work in list_device_work(events) if work.part is None]
    known = {work.key for work in list_device_work(reference)}
    assert len(with_graph) > 3 * 100
    assert sum(work.key in known for work in with_graph) > 0.95 * len(with_graph)
    parts, expected = sum_gpu_parts(events, reference), sum_gpu_parts(reference)
    for part in (CONVOLUTION, BATCHNORM, OPTIMISER):
        assert 0 < parts[part] == pytest.approx(3 * expected[part], rel=0.3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_profile_on_a_gpu_sums_to_the_time_of_a_step(tmp_path):
    pytest.importorskip("sklearn")  # has the digits
    data = get_dataset("digits")
    run_recipe = replace(recipe("fast"), batch_size=128)
    run = Run(network("cifar-resnet20", input=data.input, classes=10), "digits", run_recipe, 0)
    facts = profile_run(run, set_up_machine("bf16"), tmp_path / "PROFILE.json.gz")
    assert 0 < facts["share_of_limit"] <= 1
    times = {part["name"]: part["milliseconds"] for part in facts["parts"]}
    assert sum(times.values()) == pytest.approx(facts["milliseconds"])
    assert min(times[part] for part in (CONVOLUTION, BATCHNORM, OTHER, OPTIMISER)) > 0
