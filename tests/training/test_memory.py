"""The memory that a run needs: estimated, measured, and compared with what is free."""

import json
import re

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.memory import (
    EVAL_BATCH,
    RECOMPUTE_MODES,
    estimate_activation_peak_bytes,
    estimate_evaluation_bytes,
    estimate_run_memory,
    recompute_segment_lengths,
)
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipes import recipe
from residua.data.read import read_split
from residua.data.space import total_memory_bytes
from residua.errors import Interrupted, TrainingError
from residua.net.build import build
from residua.net.native_bf16 import cpu_has_bf16
from residua.training.evaluate import evaluate_network
from residua.training.machine import Machine
from residua.training.memory import available_memory, require_enough_memory
from residua.training.run import train_run
from residua.training.step import TrainingStep
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    load_last_weights,
    make_digits_run,
    never_stop,
    stop_after,
)

GIB = 2**30
DIGITS = get_dataset("digits")


def measure_peak_bytes(function):
    """Peak bytes of the tensors that a call allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    live = most = 0
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", RECOMPUTE_MODES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name",
    [
        "cifar-resnet20",
        "cifar-preresnet20",
        "cifar-plain20",
        "cifar-highway20",
        "cifar-preresnet29,block=bottleneck",
    ],
)
def test_a_step_takes_the_estimated_memory(name, precision, way):
    if precision == "bf16" and way != "none" and not cpu_has_bf16():
        pytest.skip("without native bf16 the estimate is too low for recomputed segments")
    machine, spec = Machine(torch.device("cpu"), precision, way), network(name)
    net = machine.prepare_model_in_place(build(spec))
    step, images, labels = (
        TrainingStep(net, recipe("he2015").optimiser, machine),
        torch.randn(16, *spec.input),
        torch.arange(16) % 10,
    )
    step(images, labels, 0.1)  # allocates the momentum
    found = (
        measure_peak_bytes(lambda: [step(images, labels, 0.1) for _ in range(2)]) + images.nbytes
    )
    assert estimate_activation_peak_bytes(net.plan, 16, way, precision == "bf16") == pytest.approx(
        found, rel=0.15
    )


@pytest.mark.parametrize("way", RECOMPUTE_MODES)
@pytest.mark.parametrize("name", ["cifar-resnet110", "cifar-preresnet164"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_of_a_deep_net_takes_the_estimated_memory(name, way):
    test_a_step_takes_the_estimated_memory(name, "bf16", way)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["cifar-resnet8", "cifar-preresnet29,block=bottleneck", "cifar-plain8"]
)
def test_an_evaluation_takes_no_more_than_the_estimated_memory(name):
    data = get_dataset("digits")
    images = read_split(data, "train")[slice(0, EVAL_BATCH)]
    net = build(network(name, input=data.input))
    peak_bytes = measure_peak_bytes(
        lambda: evaluate_network(net, images, data.mean, data.std, CPU_FP32)
    )
    assert 0.6 < peak_bytes / estimate_evaluation_bytes(net.plan, EVAL_BATCH) < 1.15


def test_segments_cover_all_units_and_have_about_sqrt_length():
    planned = plan(network("cifar-resnet1202"))
    assert recompute_segment_lengths(planned, "none") == ((), (), ())
    assert recompute_segment_lengths(planned, "unit") == ((1,) * 200,) * 3
    assert recompute_segment_lengths(planned, "stage") == ((200,),) * 3
    for lengths in recompute_segment_lengths(planned, "sqrt"):
        assert sum(lengths) == 200
        assert set(lengths) <= {16, 17}


@pytest.mark.parametrize("bf16", [True, False])
def test_checkpointing_1202_layers_takes_a_quarter_of_the_memory(bf16):
    planned = plan(network("cifar-resnet1202"))
    assert (
        estimate_activation_peak_bytes(planned, 128, "sqrt", bf16)
        < estimate_activation_peak_bytes(planned, 128, "none", bf16) / 4
    )


def test_the_data_take_the_estimated_memory():
    data, chosen = get_dataset("digits"), recipe("small")
    images = [read_split(data, split) for split in ("train", "dev")]
    assert sum(map(len, images)) == data.num_images
    padded = len(images[0]) * (8 + 2 * chosen.augment.pad) ** 2
    expected = (
        sum(part.pixels.nbytes + part.labels.nbytes for part in images)
        + padded
        + 2 * 8 * len(images[0])
    )
    assert (
        estimate_run_memory(
            plan(network("cifar-resnet8", input=data.input)), chosen, data, chosen.batch_size
        ).data
        == expected
    )


def measure_free_memory_with(root, system_files):
    for name, text in system_files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return available_memory(torch.device("cpu"), root)


MEMINFO = {"proc/meminfo": f"MemTotal: {10 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n"}


def test_free_memory_respects_the_machine_and_every_control_group(tmp_path):
    assert measure_free_memory_with(tmp_path / "nothing", {}) is None
    assert measure_free_memory_with(tmp_path / "free", MEMINFO) == 8 * GIB
    two = {
        "proc/self/cgroup": "0::/jobs/mine\n",
        "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
        "sys/fs/cgroup/jobs/mine/memory.current": "5\n",
        "sys/fs/cgroup/jobs/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/jobs/memory.current": f"{2 * GIB}\n",
        "sys/fs/cgroup/jobs/memory.stat": f"anon 7\ninactive_file {GIB // 2}\n"
        f"active_file {GIB // 4}\nslab_reclaimable {GIB // 4}\nslab_unreclaimable 9\n",
    }
    assert measure_free_memory_with(tmp_path / "two", MEMINFO | two) == 3 * GIB
    one = {
        "proc/self/cgroup": "3:cpu,memory:/mine\n1:name=systemd:/\n",
        "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/mine/memory.stat": "total_inactive_file 0\ntotal_active_file 5\n",
    }
    assert measure_free_memory_with(tmp_path / "one", MEMINFO | one) == GIB + 5
    totals = {"nothing": None, "free": 10 * GIB, "two": 4 * GIB, "one": 2 * GIB}
    for name, total in totals.items():  # whatever is in use
        assert total_memory_bytes(tmp_path / name) == total


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_a_run_that_does_not_fit_is_refused_with_a_suggestion_that_fits(share, monkeypatch):
    run, planned = (
        make_digits_run("cifar-resnet110", batch_size=1024),
        plan(network("cifar-resnet110", input=(1, 8, 8))),
    )
    estimate = estimate_run_memory(
        planned, run.recipe, get_dataset("digits"), run.recipe.batch_size
    )
    free = int(estimate.weights + estimate.data + share * estimate.activations)
    monkeypatch.setattr("residua.training.memory.available_memory", lambda device: free)
    with pytest.raises(TrainingError) as refused:
        require_enough_memory(run, planned, DIGITS, CPU_FP32)
    suggestion = re.fullmatch(
        r"cifar-resnet110 needs [\d.,]+ .iB of memory, but only [\d.,]+ .iB is free: "
        r"add --recompute (\w+)"
        r"(?:, which needs .*| --set batch_size=(\d+))",
        str(refused.value),
    )
    assert (suggestion[2] is not None) == (share == 0.05)
    fitting = make_digits_run("cifar-resnet110", batch_size=suggestion[2] or 1024)
    require_enough_memory(
        fitting, planned, DIGITS, Machine(torch.device("cpu"), "fp32", suggestion[1])
    )


def test_a_too_large_run_gives_a_one_line_error_and_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("residua.training.memory.available_memory", lambda device: 2**20)
    for extra in ([], ["--dry-run"]):
        assert main(["train", "digits", "--steps", "2", "--out", str(tmp_path / "r"), *extra]) == 1
        assert re.fullmatch(
            r"residua: cifar-resnet20 needs \d+ MiB of memory, but only 1 MiB is free: "
            r"not even a batch of one image fits\n",
            capsys.readouterr().err,
        )
    assert not (tmp_path / "r").exists()


def test_train_prints_the_memory_estimate_first_and_dry_run_gives_it_in_bytes(tmp_path, capsys):
    options = ["train", "digits", "--model", "cifar-resnet8", "--steps", "2", "--recompute", "sqrt"]
    assert main([*options, "--out", str(tmp_path / "r")]) == 0
    pattern = (
        "residua: estimated memory [0-9.]+ .iB with --recompute sqrt: "
        "activations .*, weights, .* momentum .*, data .*; .* free"
    )
    assert re.search(pattern, capsys.readouterr().err)
    assert (
        json.loads((tmp_path / "r" / "run.json").read_text())["environment"]["recompute"] == "sqrt"
    )
    assert main([*options, "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    parts = [facts[f"memory_{part}_bytes"] for part in ("activations", "weights", "data")]
    assert facts["recompute"] == "sqrt"
    assert sum(parts) == facts["memory_bytes"]


def test_resuming_with_another_checkpointing_mode_is_bit_identical(tmp_path):
    train_run(
        make_digits_run(),
        tmp_path / "whole",
        CPU_FP32,
        on_progress=ignore_progress,
        should_stop=never_stop,
    )
    ways = iter(("unit", "none", "stage", "sqrt"))
    while True:
        try:
            machine = Machine(torch.device("cpu"), "fp32", next(ways))
            train_run(
                make_digits_run(),
                tmp_path / "parts",
                machine,
                resume=True,
                on_progress=ignore_progress,
                should_stop=stop_after(12),
            )
            break
        except Interrupted:
            pass
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
