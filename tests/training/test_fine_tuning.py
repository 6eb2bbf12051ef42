"""The fields of a recipe for fine-tuning: what each does, and that a resumed run is the same."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import residua
from residua.config.network import Network
from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.config.recipe import Recipe
from residua.config.recipes import recipe
from residua.config.schedules import OneCycle, StepDecay, Warmup
from residua.errors import Interrupted, UsageError
from residua.net.build import build
from residua.net.freeze import last_layer_parameters
from residua.report.augmentation_text import describe_augmentation
from residua.report.method import list_fine_tuning_settings
from residua.training.checkpoint import list_checkpoints, load_checkpoint
from residua.training.dry_run import preview_run
from residua.training.machine import Machine
from residua.training.run import train_run
from residua.training.step import TrainingStep, make_training_step
from residua.training.weight_average import WeightAverage
from tests.cli_runner import run_cli
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    load_last_weights,
    make_digits_run,
    never_stop,
    read_metrics_without_times,
    stop_after,
)

FIELDS = {
    "probe": {"probe": 0.4, "body_lr": 0.5},
    "probe, AdamW": {"probe": 0.4, "optimiser": '{"kind": "AdamW"}', "schedule__lr": 0.001},
    "probe, Muon": {"probe": 0.4, "optimiser": '{"kind": "Muon"}'},
    "layer_decay": {"layer_decay": 0.5},
    "BN frozen": {"bn": "frozen"},
    "BN re-estimated": {"bn": "reestimated"},
    "ema": {"ema": 0.9},
    "clip_norm": {"clip_norm": 0.1},
    "sizes": {"sizes": "[0.5, 0.75, 1]"},
    "all": {
        "probe": 0.3,
        "layer_decay": 0.5,
        "bn": "reestimated",
        "ema": 0.9,
        "clip_norm": 0.5,
        "sizes": "[0.5, 1]",
        "augment__randaugment": 2,
        "balance": "true",
    },
}
BEFORE_AND_AFTER_PHASES = (4, 6)  # steps of the first two sessions: within, and after, each phase


def train(run, folder, machine=CPU_FP32, **keywords):
    arguments = {"on_progress": ignore_progress, "should_stop": never_stop} | keywords
    return train_run(run, folder, machine, **arguments)


@pytest.mark.parametrize("name", FIELDS)
def test_an_interrupted_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, name):
    """Also in bf16, and with interruptions within and after each phase."""
    run = make_digits_run(steps=14, **FIELDS[name])
    machine = Machine(torch.device("cpu"), "bf16" if name in ("all", "BN frozen") else "fp32")
    train(run, tmp_path / "whole", machine)
    for steps in BEFORE_AND_AFTER_PHASES:
        with pytest.raises(Interrupted):
            train(run, tmp_path / "parts", machine, resume=True, should_stop=stop_after(steps))
    train(run, tmp_path / "parts", machine, resume=True)
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics_without_times(tmp_path / "parts") == read_metrics_without_times(
        tmp_path / "whole"
    )


@pytest.mark.parametrize("name", ["all", "BN frozen"])
def test_activation_checkpointing_does_not_change_a_bit(tmp_path, name):
    run = make_digits_run("cifar-preresnet8,join=drop-path", steps=8, **FIELDS[name])
    states = []
    for recompute in ("none", "unit"):
        train(run, tmp_path / recompute, Machine(torch.device("cpu"), "bf16", recompute))
        states.append(load_last_weights(tmp_path / recompute))
    assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def test_a_run_killed_after_its_last_checkpoint_ends_with_the_same_weights(tmp_path, monkeypatch):
    """The last checkpoint holds the raw weights; the averaging and re-estimation are repeated."""
    run = make_digits_run(steps=8, ema=0.9, bn="reestimated")
    train(run, tmp_path / "whole")
    with monkeypatch.context() as patch:

        def raise_error(*arguments):
            raise KeyboardInterrupt

        patch.setattr("residua.training.run.finish_run", raise_error)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "parts")
    train(run, tmp_path / "parts", resume=True)
    ours, theirs = load_last_weights(tmp_path / "parts"), load_last_weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "rule", [Sgd(), AdamW(), RmsProp(), Muon()], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("model", ["cifar-resnet8", "cifar-preresnet8"])
def test_in_the_probe_phase_only_the_last_layer_changes(model, rule):
    """Weight decay, momentum and BN do not touch the others, which start like a new optimiser."""
    probe_recipe = replace(recipe("small"), optimiser=rule, probe=0.5)
    net = residua.create_model(model, input=(1, 8, 8)).train()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    step = make_training_step(net, probe_recipe, CPU_FP32)
    batch = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    for _ in range(3):
        net.eval()
        net.train()  # as an evaluation does
        step.set_probing(True)
        step(*batch, 0.05)
    last_layer = {f"head.{len(net.head) - 1}.{name}" for name in ("weight", "bias")}
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in last_layer), name
    assert {key.rpartition("/")[0] for key in step.optimiser_state()} == last_layer
    step.set_probing(False)
    step(*batch, 0.05)
    assert all(not torch.equal(x, before[name]) for name, x in net.state_dict().items())


def test_the_first_step_of_the_second_phase_is_the_first_step_of_a_new_optimiser_for_the_body():
    probe_recipe = replace(recipe("small"), optimiser=AdamW(), probe=0.5)
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8)).train()
    step = make_training_step(net, probe_recipe, CPU_FP32)
    batch = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    step.set_probing(True)
    for _ in range(3):
        step(*batch, 0.05)
    step.set_probing(False)
    fresh = copy.deepcopy(net)
    step(*batch, 0.05)
    TrainingStep(fresh, AdamW(), CPU_FP32)(*batch, 0.05)
    body = {name for name, p in net.named_parameters() if p not in last_layer_parameters(net)}
    ours, theirs = net.state_dict(), fresh.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in body)


def test_the_schedule_runs_once_in_each_phase():
    base = Recipe(name="x", steps=100, schedule=OneCycle(0.1, 0.5))
    with_probe = replace(base, probe=0.2)
    rates = [with_probe.lr_at_step(step, 100) for step in range(100)]
    assert rates[:20] == [base.lr_at_step(step, 20) for step in range(20)]
    assert rates[20:] == [base.lr_at_step(step, 80) for step in range(80)]
    warmed = replace(with_probe, schedule=StepDecay(), warmup=Warmup(0.01, 400, 0))
    assert [warmed.lr_at_step(step, 100) for step in (0, 1, 2, 20, 27, 28)] == [
        0.01, 0.01, 0.1, 0.01, 0.01, 0.1,
    ]  # fmt: skip
    assert [replace(base, probe=0.99).count_probe_steps(n) for n in (1, 2, 1000)] == [0, 1, 990]


def test_layer_decay_lowers_the_rate_from_stage_to_stage():
    net = residua.create_model("cifar-preresnet8", input=(1, 8, 8)).double().train()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    twin = copy.deepcopy(net)
    batch = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8)
    for trained, options in ((net, {"layer_decay": 0.5, "body_lr": 0.1}), (twin, {})):
        TrainingStep(trained, Sgd(0.0, 0.0), CPU_FP32, **options)(*batch, 0.1)
    full = dict(twin.named_parameters())
    factors = {"head": 0.05, "stages.stage3": 0.05, "stages.stage2": 0.025}
    factors |= {"stages.stage1": 0.0125, "stem": 0.00625}
    for name, p in net.named_parameters():
        factor = 1.0
        if p not in last_layer_parameters(net):
            factor = next(value for part, value in factors.items() if name.startswith(part))
        wanted = factor * (full[name] - before[name])
        assert torch.allclose(p - before[name], wanted, rtol=1e-6, atol=1e-14), name


def test_frozen_bn_trains_scales_and_shifts_but_keeps_its_statistics(tmp_path):
    train(make_digits_run(steps=4, bn="frozen"), tmp_path)
    ours = load_last_weights(tmp_path)
    fresh = build(make_digits_run().network, 0).state_dict()
    changed = {name for name, x in ours.items() if not torch.equal(x, fresh[name])}
    assert {name for name in ours if "running" in name or "num_batches" in name} == (
        set(ours) - changed
    )
    assert any(name.startswith("stages") and ours[name].dim() == 1 for name in changed)


def test_reestimated_statistics_are_those_of_the_training_images(tmp_path):
    """The first BN sees the stem's output: its mean over all training images, in float64."""
    from residua.config.dataset import get_dataset
    from residua.data.augment import normalise_pixels
    from residua.data.read import read_split

    train(make_digits_run(steps=4, bn="reestimated"), tmp_path)
    data = get_dataset("digits")
    net = residua.from_pretrained(tmp_path / "last").double()
    images = normalise_pixels(read_split(data, "train").pixels, data.mean, data.std).double()
    convolution, norm = net.stem[0], net.stem[1]
    assert isinstance(norm, nn.BatchNorm2d)
    maps = convolution(images)
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3)), rtol=0.01)


def test_the_average_follows_its_equation_and_is_swapped_without_a_trace():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    average = WeightAverage(net, 0.3)
    wanted = {name: x.clone() for name, x in net.state_dict().items()}
    for step in range(5):
        with torch.no_grad():
            for x in (*net.parameters(), net[1].running_mean):
                x.add_(torch.randn_like(x))
        net[1].num_batches_tracked += 1
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25, 0.3, 0.3
        for name, x in net.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * x
    wanted["1.num_batches_tracked"] = torch.tensor(5)
    raw = {name: x.clone() for name, x in net.state_dict().items()}
    places = [x.data_ptr() for x in net.state_dict().values()]
    with average.applied():
        for name, x in net.state_dict().items():
            assert torch.allclose(x, wanted[name].to(x.dtype), rtol=1e-12), name
    assert all(torch.equal(x, raw[name]) for name, x in net.state_dict().items())
    assert [x.data_ptr() for x in net.state_dict().values()] == places


def test_a_run_saves_averaged_weights_and_says_so_while_its_checkpoint_keeps_the_raw_ones(
    tmp_path,
):
    run = make_digits_run(steps=33, ema=0.8)
    with pytest.raises(Interrupted):
        train(run, tmp_path / "average", should_stop=stop_after(32))
    raw_run = make_digits_run(steps=33)
    with pytest.raises(Interrupted):
        train(raw_run, tmp_path / "raw", should_stop=stop_after(32))
    [groups, raw_groups] = [
        load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[0])[0]
        for name in ("average", "raw")
    ]
    assert all(torch.equal(x, groups["net"][name]) for name, x in raw_groups["net"].items())
    config = json.loads((tmp_path / "average" / "best" / "config.json").read_text())
    assert config["ema"] == 0.8
    train(run, tmp_path / "average", resume=True)
    train(raw_run, tmp_path / "raw", resume=True)
    ours, theirs = load_last_weights(tmp_path / "average"), load_last_weights(tmp_path / "raw")
    wanted = {name: x.lerp(theirs[name], 1 - 33 / 42) for name, x in groups["average"].items()
              if x.is_floating_point()}  # fmt: skip
    assert all(torch.allclose(ours[name], x, atol=1e-7) for name, x in wanted.items())
    assert not any(torch.equal(ours[name], theirs[name]) for name in wanted)


def test_clipped_gradients_are_those_of_pytorch():
    batch = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    moved = []
    for limit in (0.5, 1e6):
        net = residua.create_model("cifar-resnet8", input=(1, 8, 8)).train()
        twin = copy.deepcopy(net)
        TrainingStep(net, Sgd(0.0, 0.0), CPU_FP32, clip_norm=limit)(*batch, 0.1)
        nn.functional.cross_entropy(twin(batch[0]), batch[1]).backward()
        norm = nn.utils.clip_grad_norm_(twin.parameters(), limit)
        assert 0.5 < norm < 1e6
        for p, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p, theirs - 0.1 * theirs.grad, atol=1e-6)
        moved.append(net.head[-1].weight.detach().clone())
    assert not torch.allclose(*moved)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"probe": 1.0}, "probe=1.0 is invalid: it must be at least 0 and below 1"),
        ({"ema": 1.0}, "ema=1.0 is invalid"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 is invalid"),
        ({"layer_decay": -0.1}, "layer_decay=-0.1 is invalid"),
        ({"layer_decay": 1e200}, r"layer_decay=1e\+200 .* at least 0 and at most 1$"),
        ({"body_lr": 1e308}, r"body_lr=1e\+308 is invalid: .* at most 1000$"),
        ({"sizes": 0.5}, r"sizes=0.5 is invalid: give a tuple of shares, e.g. \(0.5, 1\)$"),
        ({"sizes": "abc"}, "sizes='abc' is invalid: give a tuple of shares"),
        ({"sizes": ("a",)}, "sizes='a' is invalid: give a number"),
        ({"ema": "0.9"}, "ema='0.9' is invalid: give a number"),
        ({"ema": None}, "ema=None is invalid: give a number"),
        ({"clip_norm": True}, "clip_norm=True is invalid: give a number"),
        ({"clip_norm": 10**400}, "clip_norm=1000.* is invalid: give a number"),
        ({"sizes": (0.0, 1.0)}, r"sizes=\[0.0, 1.0\] is invalid: give shares of the full side"),
        ({"bn": "frozn"}, "there is no mode of BN 'frozn': did you mean 'frozen'"),
        ({"freeze": True, "probe": 0.1}, "freeze and probe cannot be combined"),
        ({"freeze": True, "bn": "frozen"}, "freeze and bn cannot be combined"),
    ],
)
def test_a_field_out_of_range_is_refused(setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        replace(recipe("small"), **setting)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"probe": 0.5}, "probe needs a network built by residua"),
        ({"layer_decay": 0.5}, "layer_decay needs a network built by residua"),
        ({"sizes": (0.5, 1.0)}, "sizes needs a network built by residua"),
        ({"body_lr": 0.5}, "body_lr needs a network built by residua"),
        ({"freeze": True}, "freeze needs a network built by residua"),
        ({"bn": "frozen"}, "bn=frozen needs a network built by residua"),
    ],
)
def test_a_field_that_needs_known_layers_refuses_a_module_of_the_users_own(setting, sentence):
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8).numpy()
    labels = [0, 1] * 10
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    own = replace(recipe("small"), batch_size=4, **setting)
    with pytest.raises(UsageError, match=sentence):
        residua.train(net, (images, labels), recipe=own)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["probe=0.5"], "probe needs pretrained weights: add --from"),
        (
            ["augment.magnitude=5"],
            "augment.magnitude=5 has no effect without augment.randaugment: set it to the number "
            "of changes, e.g. augment.randaugment=2",
        ),
    ],
)
def test_a_field_without_effect_is_refused(settings, sentence, tmp_path, capsys):
    options = [word for setting in settings for word in ("--set", setting)]
    command = ["train", "digits", "--model", "cifar-resnet8", *options, "--out", tmp_path / "r"]
    assert run_cli(capsys, *command) == (2, "", f"residua: {sentence}")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"probe": 0.01}, "probe=0.01 is less than one of 8 steps: raise probe, or leave it out"),
        (
            {"sizes": "[0.1, 1]"},
            "0.1 of the side leaves images of 1 x 1 pixels, but training needs",
        ),
    ],
)
def test_a_phase_without_a_step_or_an_image_is_refused(settings, sentence, tmp_path):
    run = make_digits_run(steps=8, **settings)
    for action in (
        lambda: train(run, tmp_path / "r"),
        lambda: preview_run(run, CPU_FP32, None),
    ):
        with pytest.raises(UsageError, match=sentence):
            action()


def test_recipes_that_are_equal_make_runs_with_equal_ids():
    ids = {
        replace(make_digits_run(), recipe=replace(recipe("small"), **settings)).id
        for settings in (
            {"sizes": (0.5, 1), "clip_norm": 1, "layer_decay": 1},
            {"sizes": (0.5, 1.0), "clip_norm": 1.0},
            {"sizes": [0.5, np.float32(1)], "clip_norm": np.float64(1)},
        )
    }
    assert len(ids) == 1


def test_the_probe_phase_leaves_alone_what_the_user_froze():
    probe_recipe = replace(recipe("small"), probe=0.5)
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8)).train()
    net.stem.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in net.stem.named_parameters()}
    step = make_training_step(net, probe_recipe, CPU_FP32)
    batch = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    for is_probing in (True, False):
        step.set_probing(is_probing)
        step(*batch, 0.05)
    for name, p in net.stem.named_parameters():
        assert (p.requires_grad, p.grad) == (False, None)
        assert torch.equal(p, before[name])
    assert all(p.requires_grad for p in net.stages.parameters())


@pytest.mark.parametrize("settings", [{"freeze": True}, {"bn": "frozen"}, {"probe": 0.5}])
def test_a_network_that_was_trained_before_may_be_given_as_a_module(settings):
    images = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8).numpy()
    net = residua.create_model("cifar-resnet8", input=(1, 8, 8), num_classes=2)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    chosen = replace(recipe("small"), batch_size=4, **settings)
    residua.train(net, (images, [0, 1] * 12), recipe=chosen, steps=4, quiet=True)
    same = {name for name, x in net.state_dict().items() if torch.equal(x, before[name])}
    last = {f"head.{len(net.head) - 1}.{name}" for name in ("weight", "bias")}
    assert not same & last
    assert ({*before} - last == same) == ("freeze" in settings)
    if "bn" in settings:
        assert same >= {name for name in before if "running" in name}


def test_sizes_refuse_a_network_of_vectors(tmp_path):
    run = make_digits_run("fc-resnet10", steps=4, sizes="[0.5, 1]")
    assert isinstance(run.network, Network)
    with pytest.raises(UsageError, match="fc-resnet10 does not take images of other sizes"):
        train(run, tmp_path)


def train_own_module(**settings):
    """Train a module of one's own; return its last layer's weights before, and after each step."""
    torch.manual_seed(0)
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8).numpy()
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2))
    weights = [net[2].weight.detach().clone()]
    residua.train(
        net,
        (images, [0, 1] * 20),
        recipe=replace(recipe("small"), batch_size=8, **settings),
        steps=6,
        quiet=True,
        on_progress=lambda report: weights.append(net[2].weight.detach().clone()),
    )
    return net, weights


def test_a_module_of_the_users_own_ends_with_its_averaged_weights():
    net, [average, *weights] = train_own_module(ema=0.9, bn="reestimated")
    assert len(weights) == 6
    for step, weight in enumerate(weights):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert torch.allclose(net[2].weight, average, atol=1e-6)
    assert not torch.allclose(weights[-1], average, atol=1e-3)


def test_the_gradients_of_a_module_of_the_users_own_are_clipped():
    moves = {}
    for clip_norm in (0.0, 1e-3):
        _, weights = train_own_module(clip_norm=clip_norm)
        moves[clip_norm] = (weights[-1] - weights[0]).norm()
    # six steps of at most 0.1 times a momentum of at most ten gradients, and weight decay
    assert moves[1e-3] < 6 * 0.1 * (10 * 1e-3 + 1e-3)
    assert moves[0.0] > 10 * moves[1e-3]


def test_a_tensor_that_a_module_holds_under_two_names_is_averaged_once():
    net = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4)})
    net["second"].weight = net["first"].weight
    average = WeightAverage(net, 0.9)
    raw = net["first"].weight.detach().clone()
    with torch.no_grad():
        net["first"].weight.add_(1)
    average.update(100)
    with average.applied():
        for part in net.values():
            assert torch.allclose(part.weight, raw + 0.1, atol=1e-6)
    assert torch.equal(net["second"].weight, raw + 1)


def test_reports_say_which_fields_were_used():
    plain = recipe("tuning")
    changed = replace(
        plain, layer_decay=0.5, probe=0.25, bn="frozen", ema=0.99, clip_norm=2.0, sizes=(0.5, 1.0)
    )
    assert list_fine_tuning_settings(plain) == []
    assert list_fine_tuning_settings(replace(plain, stem=0.055)) == [
        "the stem is trained only in the first 5.5 % of steps, at a rate that falls linearly to 0"
    ]
    text = describe_augmentation(replace(plain.augment, randaugment=2), flips_allowed=True)
    assert text.endswith("; each gets 2 random changes of strength 9 of 30 (RandAugment)")
    assert list_fine_tuning_settings(changed) == [
        "the rate is multiplied by 0.5 from each stage to the one before it",
        "only the last layer is trained in the first 25 % of steps, and the schedule runs once in "
        "this phase and once after it",
        "BN keeps its running statistics and normalises by them",
        "weights are averaged over steps, with a decay of 0.99",
        "gradients longer than 2 are shortened",
        "the sides of the training images are 50 % and 100 % of full size, in equal parts of the "
        "run",
    ]
