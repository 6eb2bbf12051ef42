"""Signals against the null model, against autograd, and of modules that are not ours."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from residua.data.augment import normalise
from residua.data.read import read
from residua.errors import UsageError
from residua.net.build import create_model
from residua.spec.dataset import dataset
from residua.study.null import null
from residua.study.signals import signals
from tests.peers import torchvision

DIGITS = dataset("digits")


@cache
def training_images(data, folder):
    return read(data, "train", folder)


def batch(seed=0, data=DIGITS, folder=None, images=16):
    some = training_images(data, folder)[slice(images * seed, images * (seed + 1))]
    return normalise(some.pixels, data.mean, data.std), some.labels


def drawn(name, seeds, data, folder):
    """Clip fraction and survival (draws, 2, units) of so many networks and batches, and the null model's (2, units)."""
    keys = ("clip_fraction", "survival")
    found = []
    for seed in range(seeds):
        net = create_model(name, seed=seed)
        measured = signals(net, *batch(seed, data, folder))
        found.append([[getattr(unit, key) for unit in measured] for key in keys])
    foreseen = [[getattr(unit, key) for unit in null(net.plan)] for key in keys]
    return np.array(found), np.array(foreseen)


@pytest.mark.parametrize(("depth", "draws"), [(20, 12), (110, 6)])
def test_clip_fraction_and_survival_agree_with_the_null_model_in_every_stage(depth, draws, real_data):
    """Pixels and channels are not independent, so the error is judged between draws of weights and images alone: each unit's mean
    over draws, as a t-value, and all of them together."""
    found, foreseen = drawn(f"cifar-resnet{depth}", draws, dataset("cifar10"), real_data)
    error = found.std(0, ddof=1) / draws**0.5
    t = (found.mean(0) - foreseen) / error
    assert np.abs(found.mean(0) - foreseen).max() < 0.03
    assert np.sqrt((t**2).mean()) < 2, t
    assert found.mean(0)[0, :3] == pytest.approx([0.375, 0.3125, 0.2734], abs=0.02)


@pytest.mark.parametrize(
    "changes", ["order=relu-before-add", "order=relu-preact", "order=full-preact", "shortcut=B", "shortcut=C", "shortcut=none",
                "start=identity", "start=identity,shortcut=B"],
)  # fmt: skip
def test_the_null_model_fits_the_other_designs_too(changes, real_data):
    """Variances of one draw lie within 40 %, for channels are few and tails heavy; shares of cut sums within 4 points."""
    net = create_model(f"cifar-resnet20,{changes}")
    for unit, expected in zip(signals(net, *batch(0, dataset("cifar10"), real_data)), null(net.plan), strict=True):
        assert unit.clip_fraction == pytest.approx(expected.clip_fraction, abs=0.04)
        assert unit.survival == pytest.approx(expected.survival, abs=0.04)
        assert unit.response_std == pytest.approx(expected.response_std, rel=0.2)
        assert unit.variance == pytest.approx(expected.variance, rel=0.4)


@pytest.mark.parametrize("name", ["cifar-preresnet110", "cifar-preresnet164", "cifar-resnet20,order=no-relu-after-add"])
def test_nothing_cuts_the_path_of_the_2016_design(name):
    measured = signals(create_model(name, input=(1, 8, 8)), *batch())
    assert {(unit.clip_fraction, unit.survival) for unit in measured} == {(0.0, 1.0)}


def test_zero_gamma_makes_every_unit_the_identity():
    measured = signals(create_model("cifar-resnet20,start=identity", input=(1, 8, 8)), *batch())
    assert {(u.clip_fraction, u.survival, u.response_std, u.residual_ratio) for u in measured} == {(0.0, 1.0, 0.0, 0.0)}
    assert [u.gradient_cosine for u in measured if u.stage == 1] == pytest.approx([1, 1, 1])


def test_without_bn_the_signals_of_plain_nets_vanish_and_those_of_residual_nets_explode():
    """S3, and why residual nets need BN or a small start."""
    plain = signals(create_model("cifar-plain110,order=bare", input=(1, 8, 8)), *batch())
    assert plain[-1].variance < 1e-3 * plain[0].variance
    assert plain[0].activation_gradient_norm < 0.2 * plain[-1].activation_gradient_norm
    residual = signals(create_model("cifar-resnet110,order=bare", input=(1, 8, 8)), *batch())
    assert residual[-1].variance > 1e10 * residual[0].variance
    with_bn = signals(create_model("cifar-plain110", input=(1, 8, 8)), *batch())
    assert with_bn[0].activation_gradient_norm > 1e6 * with_bn[-1].activation_gradient_norm  # explodes towards the input


def test_gradients_are_those_of_autograd_and_nothing_is_changed():
    net = create_model("cifar-resnet14,join=drop-path", input=(1, 8, 8)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images, labels = batch()
    measured = signals(net, images, labels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())

    net = create_model("cifar-resnet14", input=(1, 8, 8)).train()
    kept = []
    for unit in net.units:
        unit.register_forward_hook(lambda module, given, y: (y.retain_grad(), kept.append(y))[1])
    F.cross_entropy(net(images), labels).backward()
    for unit, y, one in zip(net.units, kept, measured, strict=True):
        weights = torch.stack([unit.branch[i].weight.grad.norm() for i in (0, 3)]).norm()
        rows = F.normalize(y.grad.flatten(1))
        end = [other.grad for other in kept if other.shape == y.shape][-1]
        assert one.gradient_norm == pytest.approx(weights.item(), rel=1e-4)
        assert one.activation_gradient_norm == pytest.approx(y.grad.norm().item(), rel=1e-4)
        assert one.gradient_cosine == pytest.approx(F.cosine_similarity(y.grad.flatten(), end.flatten(), 0).item(), abs=1e-4)
        assert one.gradient_correlation == pytest.approx((rows @ rows.T)[~torch.eye(16, dtype=bool)].mean().item(), abs=1e-4)
        assert one.variance == pytest.approx(y.var(correction=0).item(), rel=1e-4)


def test_additions_of_another_projects_resnet_are_found():
    net = torchvision.models.resnet18(num_classes=10)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = F.interpolate(batch()[0].expand(-1, 3, -1, -1), scale_factor=8.0)
    measured = signals(net, images, batch()[1])
    assert [unit.name for unit in measured] == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert [(unit.stage, unit.index) for unit in measured] == [(i, j) for i in (1, 2, 3, 4) for j in (1, 2)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [unit.response_std for unit in measured] == pytest.approx([1] * 8, abs=0.01)
    assert measured[2].clip_fraction == pytest.approx(0.5, abs=0.03)  # a projection behind BN starts the stage
    assert [unit.residual_ratio for unit in measured[2::2]] == pytest.approx([1] * 3, abs=0.01)


def test_a_module_of_another_project_gives_what_our_twin_does():
    ours = create_model("cifar-resnet14,shortcut=B", input=(1, 8, 8))

    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = ours

        def forward(self, x):
            return self.net(x)

    twins = zip(signals(ours, *batch()), signals(Foreign(), *batch()), strict=True)
    for one, other in twins:
        for key in ("clip_fraction", "survival", "response_std", "residual_ratio", "mean", "variance", "activation_gradient_norm"):
            assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-5), key


def test_named_modules_without_additions_are_measured_as_far_as_they_go():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    first, second = signals(net, *batch(), units=("0", "1"))
    assert (first.clip_fraction, first.survival, first.residual_ratio) == (None, None, None)
    assert first.gradient_norm > 0
    assert second.gradient_norm is None
    assert second.mean > 0
    with pytest.raises(UsageError, match="Sequential adds nothing to anything: name the modules to measure"):
        signals(net, *batch())
    with pytest.raises(UsageError, match="no unit '7': the network has 0 to 3"):
        signals(net, *batch(), units=("7",))


def test_one_image_is_too_few():
    with pytest.raises(UsageError, match="1 image is too few: BN and gradients compare images, give at least 2"):
        signals(create_model("cifar-resnet8", input=(1, 8, 8)), *batch(images=1))
