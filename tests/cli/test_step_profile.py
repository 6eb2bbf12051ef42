"""`residua train --profile` prints where a step goes, and writes a trace that Perfetto opens."""

import gzip
import json

import pytest

from residua.cli.main import main
from residua.training import product_rate, step_profile
from residua.training.step_parts import (
    BATCHES,
    CONVOLUTION,
    OPTIMISER,
    PARTS,
    list_host_events,
    sum_cpu_parts,
)

OPTIONS = ["--model", "cifar-resnet8", "--recipe", "fast", "--set", "batch_size=32"]


@pytest.fixture
def small_products(monkeypatch):
    monkeypatch.setattr(product_rate, "PRODUCT_SIDES", (256, 512))
    monkeypatch.setattr(step_profile, "TIMED_SECONDS", 0.0)


def test_a_profile_names_parts_and_limit_and_writes_a_trace(capfd, tmp_path, small_products):
    command = ["train", "digits", *OPTIONS, "--profile", "--out", str(tmp_path / "p")]
    assert main([*command, "--json", "--device", "cpu"]) == 0
    output, errors = capfd.readouterr()
    facts = json.loads(output)
    assert [part["name"] for part in facts["parts"]] == list(PARTS)
    assert all(part["milliseconds"] > 0 for part in facts["parts"])
    total = sum(part["milliseconds"] for part in facts["parts"])
    assert total == pytest.approx(facts["milliseconds"])
    assert facts["images_per_second"] == pytest.approx(32_000 / total)
    assert 0 < facts["share_of_limit"] <= 1
    assert facts["share_of_limit"] == pytest.approx(facts["step_tflops"] / facts["limit_tflops"])
    assert set(facts["engine"]) >= {"step", "kernels"}
    assert "USDT" not in errors  # the profiler's own messages
    assert facts["trace"] == str(tmp_path / "p" / "PROFILE.json.gz")
    trace = json.loads(gzip.decompress((tmp_path / "p" / "PROFILE.json.gz").read_bytes()))
    steps = [e for e in trace["traceEvents"] if e.get("name") == "residua: step"]
    assert len(steps) == facts["traced_steps"] <= 5
    times = sum_cpu_parts(trace["traceEvents"])
    assert sum(times.values()) == pytest.approx(sum(e["dur"] for e in steps), rel=0.01)
    check_parts_of_operators(trace["traceEvents"])

    assert main([*command, "--device", "cpu"]) == 0  # a profile may be replaced
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("all ")] == ["100.0"]


def check_parts_of_operators(events):
    parts = {}
    for event in list_host_events(events):
        parts.setdefault(event.name, set()).add(event.part)
    assert parts["aten::bmm"] == {OPTIMISER}  # Muon's products
    assert OPTIMISER not in parts["aten::cross_entropy_loss"]
    assert parts["aten::convolution_backward"] == parts["aten::conv2d"] == {CONVOLUTION}
    assert parts["aten::index"] == {BATCHES}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run"], "--dry-run and --profile cannot be combined"),
        (["--model", "vlad"], "has no training steps to profile"),
        (["--out", "{run}"], "is not empty and has no PROFILE.json.gz"),
        (["--out", "{file}"], "cannot be written"),
        (["--save-every", "nonsense"], "is not an interval"),
    ],
)
def test_a_profile_that_cannot_be_made_is_refused_in_a_sentence(options, message, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").touch()
    (tmp_path / "file").touch()
    places = {"run": tmp_path / "run", "file": tmp_path / "file"}
    words = [option.format(**places) for option in options]
    out = [] if "--out" in words else ["--out", str(tmp_path / "p")]
    assert main(["train", "digits", "--profile", *out, *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]
