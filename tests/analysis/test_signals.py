"""Signals agree with the random-walk model and with autograd, also for third-party modules."""

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from residua.analysis.random_walk import predict_initial_signals
from residua.analysis.signals import measure_signals
from residua.config.dataset import get_dataset
from residua.data.augment import normalise_pixels
from residua.data.read import read_split
from residua.errors import UsageError
from residua.net.create import create_model
from tests.third_party import torchvision

DIGITS = get_dataset("digits")


@cache
def load_training_images(data, folder):
    return read_split(data, "train", folder)


def make_batch(seed=0, data=DIGITS, folder=None, images=16):
    selected_images = load_training_images(data, folder)[slice(images * seed, images * (seed + 1))]
    return normalise_pixels(selected_images.pixels, data.mean, data.std), selected_images.labels


def measure_and_predict(name, seeds, data, folder):
    """Clip fraction and survival, measured (seeds, 2, units) and predicted (2, units).

    Each seed has its own weights and its own batch.
    """
    keys = ("clip_fraction", "survival")
    measured_values = []
    for seed in range(seeds):
        net = create_model(name, seed=seed)
        measured = measure_signals(net, *make_batch(seed, data, folder))
        measured_values.append([[getattr(unit, key) for unit in measured] for key in keys])
    predicted_values = [
        [getattr(unit, key) for unit in predict_initial_signals(net.plan)] for key in keys
    ]
    return np.array(measured_values), np.array(predicted_values)


@pytest.mark.parametrize(("depth", "draws"), [(20, 12), (110, 6)])
def test_clip_fraction_and_survival_agree_with_the_random_walk_model_in_every_stage(
    depth, draws, real_data_folder
):
    """The standard error is that between draws of weights and images.

    Pixels and channels of one draw are not independent.  Each unit's difference between the mean
    over draws and the prediction is a t-value; their root mean square must be below 2.
    """
    measured, predicted = measure_and_predict(
        f"cifar-resnet{depth}", draws, get_dataset("cifar10"), real_data_folder
    )
    standard_error = measured.std(0, ddof=1) / draws**0.5
    t = (measured.mean(0) - predicted) / standard_error
    assert np.abs(measured.mean(0) - predicted).max() < 0.03
    assert np.sqrt((t**2).mean()) < 2, t
    assert measured.mean(0)[0, :3] == pytest.approx([0.375, 0.3125, 0.2734], abs=0.02)


@pytest.mark.parametrize(
    "changes",
    [
        "order=relu-before-add",
        "order=relu-preact",
        "order=full-preact",
        "shortcut=B",
        "shortcut=C",
        "shortcut=none",
        "start=identity",
        "start=identity,shortcut=B",
    ],
)
def test_the_random_walk_model_fits_the_other_designs_too(changes, real_data_folder):
    """Clip fractions agree within 4 percentage points, variances of one draw within 40 %.

    The wide range of variances is due to few channels and heavy tails.
    """
    net = create_model(f"cifar-resnet20,{changes}")
    for unit, expected in zip(
        measure_signals(net, *make_batch(0, get_dataset("cifar10"), real_data_folder)),
        predict_initial_signals(net.plan),
        strict=True,
    ):
        assert unit.clip_fraction == pytest.approx(expected.clip_fraction, abs=0.04)
        assert unit.survival == pytest.approx(expected.survival, abs=0.04)
        assert unit.response_std == pytest.approx(expected.response_std, rel=0.2)
        assert unit.variance == pytest.approx(expected.variance, rel=0.4)


@pytest.mark.parametrize(
    "name", ["cifar-preresnet110", "cifar-preresnet164", "cifar-resnet20,order=no-relu-after-add"]
)
def test_nothing_clips_the_identity_path_of_the_2016_design(name):
    measured = measure_signals(create_model(name, input=(1, 8, 8)), *make_batch())
    assert {(unit.clip_fraction, unit.survival) for unit in measured} == {(0.0, 1.0)}


def test_zero_gamma_makes_every_unit_the_identity():
    measured = measure_signals(
        create_model("cifar-resnet20,start=identity", input=(1, 8, 8)), *make_batch()
    )
    assert {(u.clip_fraction, u.survival, u.response_std, u.residual_ratio) for u in measured} == {
        (0.0, 1.0, 0.0, 0.0)
    }
    assert [u.gradient_cosine for u in measured if u.stage == 1] == pytest.approx([1, 1, 1])


def test_without_bn_the_signals_of_plain_nets_vanish_and_those_of_residual_nets_explode():
    """Residual nets need BN or an initialisation near the identity (claim S3)."""
    plain = measure_signals(
        create_model("cifar-plain110,order=bare", input=(1, 8, 8)), *make_batch()
    )
    assert plain[-1].variance < 1e-3 * plain[0].variance
    assert plain[0].activation_gradient_norm < 0.2 * plain[-1].activation_gradient_norm
    residual = measure_signals(
        create_model("cifar-resnet110,order=bare", input=(1, 8, 8)), *make_batch()
    )
    assert residual[-1].variance > 1e10 * residual[0].variance
    with_bn = measure_signals(create_model("cifar-plain110", input=(1, 8, 8)), *make_batch())
    assert (
        with_bn[0].activation_gradient_norm > 1e6 * with_bn[-1].activation_gradient_norm
    )  # explodes towards the input


def test_gradient_signals_match_autograd_and_the_net_is_unchanged():
    net = create_model("cifar-resnet14,join=drop-path", input=(1, 8, 8)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images, labels = make_batch()
    measured = measure_signals(net, images, labels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.training
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())

    net = create_model("cifar-resnet14", input=(1, 8, 8)).train()
    unit_outputs = []
    for unit in net.units:
        unit.register_forward_hook(
            lambda module, given, y: (y.retain_grad(), unit_outputs.append(y))[1]
        )
    F.cross_entropy(net(images), labels).backward()
    for unit, y, unit_signals in zip(net.units, unit_outputs, measured, strict=True):
        weights = torch.stack([unit.branch[i].weight.grad.norm() for i in (0, 3)]).norm()
        rows = F.normalize(y.grad.flatten(1))
        end = [other.grad for other in unit_outputs if other.shape == y.shape][-1]
        assert unit_signals.gradient_norm == pytest.approx(weights.item(), rel=1e-4)
        assert unit_signals.activation_gradient_norm == pytest.approx(
            y.grad.norm().item(), rel=1e-4
        )
        assert unit_signals.gradient_cosine == pytest.approx(
            F.cosine_similarity(y.grad.flatten(), end.flatten(), 0).item(), abs=1e-4
        )
        assert unit_signals.gradient_correlation == pytest.approx(
            (rows @ rows.T)[~torch.eye(16, dtype=bool)].mean().item(), abs=1e-4
        )
        assert unit_signals.variance == pytest.approx(y.var(correction=0).item(), rel=1e-4)


def test_additions_of_a_torchvision_resnet_are_found():
    net = torchvision.models.resnet18(num_classes=10)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = F.interpolate(make_batch()[0].expand(-1, 3, -1, -1), scale_factor=8.0)
    measured = measure_signals(net, images, make_batch()[1])
    assert [unit.name for unit in measured] == [
        f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)
    ]
    assert [(unit.stage, unit.index) for unit in measured] == [
        (i, j) for i in (1, 2, 3, 4) for j in (1, 2)
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [unit.response_std for unit in measured] == pytest.approx([1] * 8, abs=0.01)
    assert measured[2].clip_fraction == pytest.approx(
        0.5, abs=0.03
    )  # a projection behind BN starts the stage
    assert [unit.residual_ratio for unit in measured[2::2]] == pytest.approx([1] * 3, abs=0.01)


def test_a_third_party_module_gives_the_same_signals_as_our_network():
    ours = create_model("cifar-resnet14,shortcut=B", input=(1, 8, 8))

    class ThirdPartyNetwork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = ours

        def forward(self, x):
            return self.net(x)

    pairs = zip(
        measure_signals(ours, *make_batch()),
        measure_signals(ThirdPartyNetwork(), *make_batch()),
        strict=True,
    )
    for built, traced in pairs:
        for key in (
            "clip_fraction",
            "survival",
            "response_std",
            "residual_ratio",
            "mean",
            "variance",
            "activation_gradient_norm",
        ):
            assert getattr(built, key) == pytest.approx(getattr(traced, key), rel=1e-5), key


def test_named_modules_without_additions_get_the_signals_that_apply():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10)
    )
    first, second = measure_signals(net, *make_batch(), unit_names=("0", "1"))
    assert (first.clip_fraction, first.survival, first.residual_ratio) == (None, None, None)
    assert first.gradient_norm > 0
    assert second.gradient_norm is None
    assert second.mean > 0
    with pytest.raises(
        UsageError, match="Sequential has no residual addition: name the modules to measure"
    ):
        measure_signals(net, *make_batch())
    with pytest.raises(UsageError, match="the network has no unit '7': choose from 0 to 3"):
        measure_signals(net, *make_batch(), unit_names=("7",))


def test_one_image_is_too_few():
    with pytest.raises(
        UsageError,
        match="signals need at least 2 images, got 1: "
        "batch normalization and the gradient correlation are computed across images",
    ):
        measure_signals(create_model("cifar-resnet8", input=(1, 8, 8)), *make_batch(images=1))
