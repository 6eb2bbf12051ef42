"""A join, a head, an optimiser and an augmentation that are defined here, outside the package."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from residua.config import registry
from residua.config.augmentation import Augmentation, BatchTransform
from residua.config.heads import Pooling
from residua.config.joins import Add, Join
from residua.config.memory import activation_bytes
from residua.config.network import Network, Unit
from residua.config.optimisers import Optimiser
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipe import Recipe
from residua.config.recipes import recipe
from residua.config.registry import register
from residua.config.run import Run, parse_run
from residua.config.serialize import apply_override, from_json, to_json
from residua.errors import Interrupted, RecordError, UsageError
from residua.net.build import build
from residua.training.run import train_run
from tests.cli_runner import run_cli
from tests.training.short_runs import CPU_FP32, ignore_progress, stop_after


@register
@dataclass(frozen=True, slots=True)
class LearnedMix(Join):
    """tanh(a) x + F, with one learned number a for each unit."""

    start: float = 1.0

    @property
    def symbol(self):
        return "~"

    @property
    def formula(self):
        return f"tanh(a) x + F, a from {self.start:g}"

    @property
    def saved_tensors(self):
        return ("shortcut",)


class LearnedMixModule(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([start]))

    def forward(self, x, shortcut, branch):
        return torch.tanh(self.a) * shortcut + branch


register(LearnedMix, implementation=lambda join, gate: LearnedMixModule(join.start))


@pytest.fixture(autouse=True, scope="module")
def named_learned_mix():
    """A name for the join, which messages of other tests do not list."""
    register(LearnedMix, names={"learned-mix": LearnedMix()})
    yield
    del registry._named_values[Join]["learned-mix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxAndMean(Pooling):
    """The maximum and the mean of each channel."""

    def pooled_channels(self, channels):
        return 2 * channels

    def count_saved_numbers(self, channels, size):
        return 2 * channels


class MaxAndMeanModule(nn.Module):
    def forward(self, x):
        return torch.cat([x.flatten(2).amax(2), x.flatten(2).mean(2)], 1)


register(MaxAndMean, implementation=lambda head, channels: MaxAndMeanModule())


@dataclass(frozen=True, slots=True)
class SignSgd(Optimiser):
    """A step of fixed size in the direction of the momentum's sign."""

    momentum: float = 0.9
    weight_decay: float = 0.0
    decay: str = "all"

    @property
    def description(self):
        return f"sign SGD with momentum {self.momentum:g}"

    @property
    def states_per_parameter(self):
        return 1


class SignSgdOptimiser(torch.optim.Optimizer):
    def __init__(self, groups, momentum):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).add_(p.grad)
                p.sub_(velocity.sign(), alpha=group["lr"])


register(
    SignSgd,
    implementation=lambda optimiser, groups: SignSgdOptimiser(groups, optimiser.momentum),
)


@dataclass(frozen=True, slots=True)
class RandomInvert(BatchTransform):
    """Invert an image with some probability."""

    probability: float = 0.5

    @property
    def description(self):
        return f"{100 * self.probability:g} % of the images are inverted"


def invert_at_random(transform, pixels, bits):
    chosen = (bits[:, 0] >> 39).float() / 2**24 < transform.probability
    return torch.where(chosen[:, None, None, None], 255 - pixels, pixels)


register(RandomInvert, implementation=invert_at_random)

RECIPE = replace(
    recipe("small").with_duration(steps=6),
    batch_size=16,
    optimiser=SignSgd(),
    augment=Augmentation(pad=1, extra=(RandomInvert(0.3), RandomInvert(0.6))),
)


def make_network(**changes) -> Network:
    return replace(network("cifar-resnet8,join=learned-mix", input=(1, 8, 8)), **changes)


def make_run() -> Run:
    return Run(make_network(head=MaxAndMean()), "digits", RECIPE, seed=1)


def test_a_part_is_written_and_read_by_its_kind():
    run = make_run()
    content = json.loads(json.dumps(run.json))
    assert content["network"]["unit"]["join"] == {"kind": "LearnedMix", "start": 1.0}
    assert content["network"]["head"] == {"kind": "MaxAndMean"}
    assert content["recipe"]["optimiser"]["kind"] == "SignSgd"
    assert [part["kind"] for part in content["recipe"]["augment"]["extra"]] == 2 * ["RandomInvert"]
    assert parse_run(content) == run
    changed = apply_override(recipe("small"), 'optimiser={"kind": "SignSgd", "momentum": 0.5}')
    assert changed.optimiser == SignSgd(0.5)


def test_a_kind_that_is_not_registered_is_refused_and_nothing_is_imported():
    content = to_json(RECIPE) | {"optimiser": {"kind": "os.system", "momentum": 0.5}}
    with pytest.raises(RecordError, match=r"of kind 'os.system', not one of Sgd, .*SignSgd"):
        from_json(Recipe, content)


def test_a_part_without_implementation_is_refused_when_it_is_built():
    @dataclass(frozen=True, slots=True)
    class Unbuildable(LearnedMix):
        pass

    spec = make_network(unit=Unit(join=Unbuildable()))
    with pytest.raises(UsageError, match="Unbuildable has no implementation: call register"):
        build(spec)


def test_a_kind_or_a_name_is_registered_once():
    with pytest.raises(UsageError, match="kind 'LearnedMix' is already registered"):
        register(dataclass(frozen=True)(type("LearnedMix", (Add,), {})))
    with pytest.raises(UsageError, match="'learned-mix' is already used by another part"):
        register(LearnedMix, names={"learned-mix": LearnedMix(0.5)})


def test_a_network_of_new_parts_is_built_and_its_memory_is_that_of_autograd():
    net = build(make_network(head=MaxAndMean()))
    assert net.plan.parameters + len(net.units) == sum(p.numel() for p in net.parameters())
    assert torch.equal(net.units[0].join.a, torch.tensor([1.0]))
    difference = activation_bytes(net.plan) - activation_bytes(
        plan(network("cifar-resnet8", input=(1, 8, 8)))
    )
    shortcuts = [unit for unit in net.plan.units if unit.shortcut]  # others are saved by the branch
    assert difference == 4 * (sum(u.output_shape.numel for u in shortcuts) + 3 * 64)


def test_a_run_of_new_parts_resumes_bit_identically(tmp_path):
    run = make_run()
    train_run(
        run, tmp_path / "whole", CPU_FP32, on_progress=ignore_progress, should_stop=lambda: False
    )
    with pytest.raises(Interrupted):
        train_run(
            run, tmp_path / "r", CPU_FP32, on_progress=ignore_progress, should_stop=stop_after(2)
        )
    result = train_run(
        run,
        tmp_path / "r",
        CPU_FP32,
        resume=True,
        on_progress=ignore_progress,
        should_stop=lambda: False,
    )
    assert result["steps"] == 6
    whole, resumed = [
        (tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "r")
    ]
    assert whole == resumed


def test_a_run_of_new_parts_is_shown_planned_and_reported(capsys, tmp_path):
    code, output, _ = run_cli(capsys, "show", "cifar-resnet8,join=learned-mix")
    assert code == 0
    assert "tanh(a) x + F" in output
    settings = [
        "--set",
        'optimiser={"kind": "SignSgd"}',
        "--set",
        'augment.extra=[{"kind": "RandomInvert"}]',
    ]
    command = [
        "train",
        "digits",
        "--model",
        "cifar-resnet8,join=learned-mix",
        "--steps",
        "2",
        *settings,
    ]
    code, output, _ = run_cli(capsys, *command, "--dry-run", "--json")
    assert code == 0
    assert json.loads(output)["memory_bytes"] > 0
    folder = tmp_path / "run"
    code, output, error = run_cli(capsys, *command, "--out", folder, "--json")
    assert code == 0, error
    code, output, error = run_cli(capsys, "report", folder)
    assert code == 0, error
    page = (folder / "report.html").read_text().replace("\xa0", " ").replace("&nbsp;", " ")
    assert "sign SGD with momentum 0.9" in page
    assert "50 % of the images are inverted" in page
    code, output, error = run_cli(
        capsys, "show", "cifar-resnet8,join=learned-mix", "--svg", tmp_path / "net.svg"
    )
    assert code == 0, error
    assert ">~<" in (tmp_path / "net.svg").read_text()
