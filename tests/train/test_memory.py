"""The memory that a run needs: foreseen, measured, and whether it is there."""

import json
import re

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from residua.cli.main import main
from residua.data.read import read
from residua.errors import Interrupted, TrainingError
from residua.net.build import build
from residua.spec.dataset import dataset
from residua.spec.memory import EVALUATED, RECOMPUTES, evaluation_bytes, run_memory, segments, step_bytes
from residua.spec.papers import network
from residua.spec.plan import plan
from residua.spec.recipe import recipe
from residua.train.evaluate import evaluate
from residua.train.machine import Machine
from residua.train.memory import available, refuse_too_large
from residua.train.run import train
from residua.train.step import Step
from tests.train.runs import CPU, after, digits_run, never, silent, weights

GIB = 2**30


def measured(work):
    """Bytes of tensors at most, beside those that are there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    live = most = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", RECOMPUTES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", ["cifar-resnet20", "cifar-preresnet20", "cifar-plain20", "cifar-highway20", "cifar-preresnet29,block=bottleneck"]
)
def test_a_step_takes_the_memory_that_is_foreseen(name, precision, way):
    machine, spec = Machine(torch.device("cpu"), precision, way), network(name)
    net = machine.place(build(spec))
    step, images, labels = Step(net, recipe("he2015").optimiser, machine), torch.randn(16, *spec.input), torch.arange(16) % 10
    step(images, labels, 0.1)  # makes the momentum
    found = measured(lambda: [step(images, labels, 0.1) for _ in range(2)]) + images.nbytes
    assert step_bytes(net.plan, 16, way, precision == "bf16") == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("way", RECOMPUTES)
@pytest.mark.parametrize("name", ["cifar-resnet110", "cifar-preresnet164"])
@pytest.mark.filterwarnings("ignore")
def test_a_deep_nets_step_takes_the_memory_that_is_foreseen(name, way):
    test_a_step_takes_the_memory_that_is_foreseen(name, "bf16", way)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet29,block=bottleneck", "cifar-plain8"])
def test_an_evaluation_takes_no_more_memory_than_is_foreseen(name):
    data = dataset("digits")
    images = read(data, "train")[slice(0, EVALUATED)]
    net = build(network(name, input=data.input))
    found = measured(lambda: evaluate(net, images, data.mean, data.std, CPU))
    assert 0.6 < found / evaluation_bytes(net.plan, EVALUATED) < 1.15


def test_segments_are_all_units_and_of_about_the_root_of_the_layers():
    planned = plan(network("cifar-resnet1202"))
    assert segments(planned, "none") == ((), (), ())
    assert segments(planned, "unit") == ((1,) * 200,) * 3
    assert segments(planned, "stage") == ((200,),) * 3
    for lengths in segments(planned, "sqrt"):
        assert sum(lengths) == 200
        assert set(lengths) <= {16, 17}


@pytest.mark.parametrize("bf16", [True, False])
def test_1202_layers_take_a_quarter_of_the_memory_where_they_are_computed_again(bf16):
    planned = plan(network("cifar-resnet1202"))
    assert step_bytes(planned, 128, "sqrt", bf16) < step_bytes(planned, 128, "none", bf16) / 4


def test_the_data_are_as_large_as_foreseen():
    data, chosen = dataset("digits"), recipe("small")
    images = [read(data, split) for split in ("train", "dev")]
    assert sum(map(len, images)) == data.images
    padded = len(images[0]) * (8 + 2 * chosen.augment.pad) ** 2
    expected = sum(part.pixels.nbytes + part.labels.nbytes for part in images) + padded + 2 * 8 * len(images[0])
    assert run_memory(plan(network("cifar-resnet8", input=data.input)), chosen, data, chosen.batch_size).data == expected


def machine_of(root, facts):
    for name, text in facts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return available(torch.device("cpu"), root)


MEMINFO = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 * GIB // 1024} kB\n"}


def test_memory_is_what_the_machine_and_each_of_its_control_groups_leave(tmp_path):
    assert machine_of(tmp_path / "nothing", {}) is None
    assert machine_of(tmp_path / "free", MEMINFO) == 8 * GIB
    two = {
        "proc/self/cgroup": "0::/jobs/mine\n",
        "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
        "sys/fs/cgroup/jobs/mine/memory.current": "5\n",
        "sys/fs/cgroup/jobs/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/jobs/memory.current": f"{2 * GIB}\n",
        "sys/fs/cgroup/jobs/memory.stat": f"anon 7\ninactive_file {GIB}\n",
    }
    assert machine_of(tmp_path / "two", MEMINFO | two) == 3 * GIB
    one = {
        "proc/self/cgroup": "3:cpu,memory:/mine\n1:name=systemd:/\n",
        "sys/fs/cgroup/memory/mine/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/mine/memory.usage_in_bytes": f"{GIB}\n",
        "sys/fs/cgroup/memory/mine/memory.stat": "total_inactive_file 0\n",
    }
    assert machine_of(tmp_path / "one", MEMINFO | one) == GIB


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_a_run_that_does_not_fit_is_refused_and_what_it_is_told_fits(share, monkeypatch):
    run, planned = digits_run("cifar-resnet110", batch_size=1024), plan(network("cifar-resnet110", input=(1, 8, 8)))
    whole = run_memory(planned, run.recipe, dataset("digits"), run.recipe.batch_size)
    free = int(whole.weights + whole.data + share * whole.activations)
    monkeypatch.setattr("residua.train.memory.available", lambda device: free)
    with pytest.raises(TrainingError) as refused:
        refuse_too_large(run, planned, CPU)
    told = re.fullmatch(
        r"cifar-resnet110 needs [\d.,]+ .iB of memory, and [\d.,]+ .iB are free: add --recompute (\w+)"
        r"(?:, which needs .*| --set batch_size=(\d+))",
        str(refused.value),
    )
    assert (told[2] is not None) == (share == 0.05)
    fitting = digits_run("cifar-resnet110", batch_size=told[2] or 1024)
    refuse_too_large(fitting, planned, Machine(torch.device("cpu"), "fp32", told[1]))


def test_the_command_line_refuses_in_a_sentence_and_makes_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("residua.train.memory.available", lambda device: 2**20)
    for extra in ([], ["--dry-run"]):
        assert main(["train", "digits", "--steps", "2", "--out", str(tmp_path / "r"), *extra]) == 1
        assert re.fullmatch(
            r"residua: cifar-resnet20 needs \d+ MiB of memory, and 1 MiB are free: not even a batch of one image fits\n",
            capsys.readouterr().err,
        )
    assert not (tmp_path / "r").exists()


def test_a_run_says_its_memory_first_and_a_dry_run_in_bytes(tmp_path, capsys):
    options = ["train", "digits", "--model", "cifar-resnet8", "--steps", "2", "--recompute", "sqrt"]
    assert main([*options, "--out", str(tmp_path / "r")]) == 0
    said = "residua: memory [0-9.]+ .iB with --recompute sqrt: activations .*, weights, .* momentum .*, data .*; .* are free"
    assert re.search(said, capsys.readouterr().err)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["environment"]["recompute"] == "sqrt"
    assert main([*options, "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    parts = [facts[f"memory_{part}_bytes"] for part in ("activations", "weights", "data")]
    assert facts["recompute"] == "sqrt"
    assert sum(parts) == facts["memory_bytes"]


def test_a_run_resumed_with_another_way_to_recompute_ends_in_the_same_bits(tmp_path):
    train(digits_run(), tmp_path / "whole", CPU, tell=silent, stop=never)
    ways = iter(("unit", "none", "stage", "sqrt"))
    while True:
        try:
            machine = Machine(torch.device("cpu"), "fp32", next(ways))
            train(digits_run(), tmp_path / "parts", machine, resume=True, tell=silent, stop=after(12))
            break
        except Interrupted:
            pass
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
