from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch import nn

from residua import UsageError, build, create_model, network
from residua.config.dataset import get_dataset
from residua.config.orders import ORDERS
from residua.config.stages import Stem
from residua.data.augment import normalise_pixels
from residua.data.read import read_split
from residua.net.add_skips import SkipConnection
from residua.net.surgery import (
    append_identity_units,
    remove_shortcuts,
    remove_units,
    residualize,
)


def make_perturbed_net(name, **changes):
    """A net with weights and statistics that no fresh net has, in evaluation mode."""
    net = create_model(name, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.05)
        for key, buffer in net.named_buffers():
            if key.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            if key.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return net.eval()


def make_random_images(net, n=4):
    return torch.randn(n, *net.plan.network.input, generator=torch.Generator().manual_seed(2))


DEEPENED_NAMES = {
    "cifar-resnet20": "cifar-resnet32,units=3-9-3",
    "cifar-preresnet20": "cifar-preresnet32,units=3-9-3",
    "cifar-resnet20,shortcut=B": "cifar-resnet32,shortcut=project,units=3-9-3",
    "cifar-resnet29,block=bottleneck": "cifar-resnet47,block=bottleneck,units=3-9-3",
    "cifar-resnet11,block=single": "cifar-resnet17,block=single,units=3-9-3",
    "cifar-resnet20,order=relu-preact": "cifar-resnet32,order=relu-preact,units=3-9-3",
    "cifar-resnet20,order=bare": "cifar-resnet32,order=bare,units=3-9-3",
    "cifar-resnet20,order=skipinit": "cifar-resnet32,order=skipinit,units=3-9-3",
    "cifar-preresnet20,order=skipinit-preact": (
        "cifar-preresnet32,order=skipinit-preact,units=3-9-3"
    ),
    "cifar-resnet20,join=drop-path": "cifar-resnet32,join=drop-path,units=3-9-3",
    "fc-resnet14": "fc-resnet26,units=3-9",
}


@pytest.mark.parametrize(("name", "deeper_name"), DEEPENED_NAMES.items())
@pytest.mark.parametrize("stage", [1, 2])
def test_a_deepened_net_is_bit_identical_and_keeps_learning(name, deeper_name, stage):
    net = make_perturbed_net(name)
    deeper = append_identity_units(net, stage, 6)
    if stage == 2:
        assert deeper.plan.network.name == deeper_name
    x = make_random_images(net)
    assert torch.equal(deeper(x), net(x))
    assert not deeper.training
    # S14: what the new units learn can only help; so each must have a gradient somewhere
    deeper.train()(make_random_images(net, 32)).square().sum().backward()
    for unit, planned in zip(deeper.units, deeper.plan.units, strict=True):
        if planned.stage == stage and planned.index > 3:
            assert any(p.grad.abs().max() > 0 for p in unit.branch.parameters()), planned.name


def test_a_deepened_net_is_identical_in_training_mode_too():
    net = make_perturbed_net("cifar-resnet8").train()
    deeper = append_identity_units(net, 1, 2)
    assert deeper.training
    assert torch.equal(deeper(make_random_images(net)), net(make_random_images(net)))


def test_repeated_deepening_yields_a_net_with_a_known_name():
    net = make_perturbed_net("cifar-resnet20")
    for stage in (1, 2, 3):
        net = append_identity_units(net, stage, 15)
    assert net.plan.network == create_model("cifar-resnet110").plan.network
    assert torch.equal(
        net(make_random_images(net)), make_perturbed_net("cifar-resnet20")(make_random_images(net))
    )


@pytest.mark.parametrize(
    ("name", "stage", "units", "sentence"),
    [
        ("cifar-resnet20", 4, 1, "cifar-resnet20 has no stage 4: choose from 1 to 3"),
        ("cifar-resnet20", 1, 0, "0 units cannot be inserted: give at least 1"),
        ("cifar-plain20", 1, 1, "a plain net has no shortcuts; residualize it first"),
        (
            "cifar-resnet20,shortcut=C",
            1,
            1,
            "every shortcut of option C is a projection; options A and B keep the identity",
        ),
        ("cifar-resnet20,order=bn-after-add", 1, 1, "its order has BN after the addition"),
        (
            "cifar-resnet20,order=relu-before-add",
            1,
            1,
            "its branches end in a ReLU, which passes no gradient at 0",
        ),
        ("cifar-resnet20,join=shortcut-gate", 1, 1, "a gate scales its shortcuts"),
        ("cifar-resnet20,join=constant", 1, 1, "its shortcuts are scaled by 0.5"),
    ],
)
def test_a_net_that_cannot_be_deepened_gives_the_reason(name, stage, units, sentence):
    with pytest.raises(UsageError) as refused:
        append_identity_units(create_model(name), stage, units)
    assert str(refused.value).endswith(sentence)


def test_every_order_is_deepened_exactly_or_refused():
    for order in ORDERS:
        net = make_perturbed_net(f"cifar-resnet8,order={order}")
        try:
            deeper = append_identity_units(net, 3, 1)
        except UsageError:
            assert order in ("bn-after-add", "relu-before-add", "highway", "silu")
        else:
            assert torch.equal(deeper(make_random_images(net)), net(make_random_images(net))), order


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet20", "cifar-plain20"])
def test_removing_a_unit_keeps_the_weights_of_the_others(name):
    net = make_perturbed_net(name)
    smaller = remove_units(net, ["stage1.unit2", "stage3.unit3"])
    assert [stage.units for stage in smaller.plan.network.stages] == [2, 3, 2]
    x = net.stem(make_random_images(net))
    for planned, unit in zip(net.plan.units, net.units, strict=True):
        if planned.name not in ("stage1.unit2", "stage3.unit3"):
            x = unit(x)
    assert torch.equal(smaller(make_random_images(net)), net.head(x))


def test_removing_inserted_units_restores_the_net():
    net = make_perturbed_net("cifar-preresnet20")
    back = remove_units(append_identity_units(net, 2, 2), ["stage2.unit4", "stage2.unit5"])
    assert back.plan.network == net.plan.network
    assert all(
        torch.equal(a, b)
        for a, b in zip(back.state_dict().values(), net.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        (
            ["stage4.unit1"],
            "cifar-resnet8 has no unit 'stage4.unit1': choose from stage1.unit1 to stage3.unit1",
        ),
        (
            ["stage2.unit1"],
            "stage2.unit1 cannot be removed, because later units depend on its change of shape "
            "or its shared activation: choose another unit",
        ),
        (["stage1.unit1"], "stage 1 would have no unit left: keep one"),
    ],
)
def test_units_that_cannot_be_removed_are_reported(units, sentence):
    with pytest.raises(UsageError) as refused:
        remove_units(create_model("cifar-resnet8"), units)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("shortcut", ["project", "pad"])
def test_a_residualized_net_keeps_its_weights_and_adds_its_input(shortcut):
    net = make_perturbed_net("cifar-plain20")
    residual = residualize(net, shortcut=shortcut)
    assert residual.plan.network.name == "cifar-resnet20" + (
        ",shortcut=project" if shortcut == "project" else ""
    )
    x = torch.rand(2, 16, 8, 8)
    plain, unit = net.units[1], residual.units[1]
    assert torch.equal(unit(x), (x + plain.branch(x)).relu())
    back = remove_shortcuts(residual)
    assert back.plan.network == net.plan.network
    assert torch.equal(back(make_random_images(net)), net(make_random_images(net)))


def test_a_shortcut_can_span_any_number_of_layers():
    net = make_perturbed_net("cifar-plain20")
    by_three = residualize(net, every=3)
    assert by_three.plan.network.unit.kernels == (3, 3, 3)
    assert by_three.plan.depth == 20
    one = residualize(net, every=1)
    assert [stage.units for stage in one.plan.network.stages] == [6, 6, 6]
    for other in (by_three, one):
        assert torch.equal(
            remove_shortcuts(other)(make_random_images(net)), net(make_random_images(net))
        )
    with pytest.raises(UsageError, match="cifar-plain20 cannot be cut into units of 4 layers"):
        residualize(net, every=4)
    with pytest.raises(UsageError, match="cifar-resnet20 already has skip connections"):
        residualize(make_perturbed_net("cifar-resnet20"))


def test_the_plain_twin_of_a_gated_net_has_only_its_branches():
    net = make_perturbed_net("cifar-preresnet20,join=exclusive-gate")
    twin = remove_shortcuts(net)
    x = net.stem(make_random_images(net))
    for unit in net.units:
        x = unit.after(unit.branch(unit.lead(x)))
    assert torch.equal(twin(make_random_images(net)), net.head(x))


def test_a_sequential_of_fully_connected_layers_becomes_the_lectures_block():
    """a[l+2] = g(W g(W a + b) + b + W_s a), W_s only where shapes differ (S7, S8)."""
    first, second, third, fourth = (
        nn.Linear(8, 16),
        nn.Linear(16, 16),
        nn.Linear(16, 16),
        nn.Linear(16, 16),
    )
    net = nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), fourth, nn.ReLU(), nn.Linear(16, 4)
    )
    residual = residualize(net)
    assert [type(module) for module in residual] == [SkipConnection, SkipConnection, nn.Linear]
    w_s = residual[0].shortcut
    assert (w_s.in_features, w_s.out_features, w_s.bias) == (8, 16, None)
    assert isinstance(residual[1].shortcut, nn.Identity)
    a = torch.randn(3, 8)
    b = (second(first(a).relu()) + w_s(a)).relu()
    assert torch.equal(residual[:2](a), (fourth(third(b).relu()) + b).relu())
    assert first.weight is not residual[0].branch[0].weight  # a copy


def test_a_sequential_of_convolutions_is_split_at_its_pooling_layers():
    conv = [
        nn.Conv2d(a, b, 3, stride, 1)
        for a, b, stride in ((3, 8, 1), (8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1))
    ]
    layers = [nn.Sequential(c, nn.BatchNorm2d(c.out_channels), nn.ReLU()) for c in conv]
    net = nn.Sequential(
        *layers[0],
        *layers[1],
        nn.MaxPool2d(2),
        *layers[2],
        *layers[3],
        *layers[4],
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    residual = residualize(net)
    kinds = [type(module).__name__ for module in residual]
    assert kinds == [
        "SkipConnection",
        "MaxPool2d",
        "SkipConnection",
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Flatten",
        "Linear",
    ]
    assert residual[2].shortcut.stride == (2, 2)
    x = torch.randn(2, 3, 16, 16)
    assert residual(x).shape == (2, 10)
    y = residual[0].branch(x)
    assert torch.equal(residual[0](x), (residual[0].shortcut(x) + y).relu())


def test_layers_that_no_shortcut_can_match_are_refused():
    valid = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(27, 2)
    )
    with pytest.raises(
        UsageError, match="is not a 'same' convolution: its output cannot be added to its input"
    ):
        residualize(valid)
    with pytest.raises(
        UsageError,
        match="this net does not have 2 consecutive weight layers that a skip connection can span",
    ):
        residualize(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))


def test_a_deepened_trained_net_gives_the_same_logits_for_a_thousand_test_images(real_data_folder):
    peer = real_data_folder / "peer-weights" / "resnet20-12fca82f.th"
    net = create_model("cifar-resnet20", pretrained=peer).eval()
    data = read_split(get_dataset("cifar10"), "test", real_data_folder)[slice(0, 1000)]
    x = normalise_pixels(data.pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        before = net(x)
        assert (before.argmax(1) != data.labels).float().mean() < 0.1
        for stage in (1, 2, 3):
            net = append_identity_units(net, stage, 2)
            assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    "name",
    [
        "cifar-resnet20",
        "cifar-preresnet164",
        "cifar-preresnet158",
        "cifar-highway8",
        "cifar-wrn16-2",
        "lecture-plain12",
        "fc-plain10",
        "cifar-plain20,head=vlad",
        "cifar-plain20,order=full-preact",
        "cifar-resnet29,block=bottleneck,width=2",
    ],
)
def test_surgery_results_have_names_that_rebuild_them(name):
    net = create_model(name)
    operations = [
        lambda: append_identity_units(net, 1, 1),
        lambda: append_identity_units(net, 2, 2),
        lambda: remove_units(net, [net.plan.units[-1].name]),
        lambda: remove_shortcuts(net),
        lambda: residualize(net),
        lambda: residualize(net, every=1),
        lambda: residualize(net, every=3),
    ]
    made = []
    for operation in operations:
        with suppress(UsageError):
            made.append(operation().plan.network)
    assert len(made) >= 2
    for value in made:
        assert network(value.name, input=value.input, classes=value.classes) == value
        assert len(set(value.name.split(","))) == len(value.name.split(","))


def test_a_network_that_no_name_describes_is_called_custom():
    spec = replace(network("cifar-resnet8"), name="mine")
    deeper = append_identity_units(build(spec), 1, 1).plan.network
    assert deeper.name == "mine,custom"
    odd = replace(network("cifar-resnet8"), stem=Stem(width=8))
    assert append_identity_units(build(odd), 1, 1).plan.network.name == "cifar-resnet10,custom"
    with pytest.raises(UsageError, match="'custom' is not a valid part of a network's name"):
        network("cifar-resnet10,custom")


def test_surgery_keeps_dtype_training_mode_and_frozen_parameters():
    net = make_perturbed_net("cifar-resnet8").double()
    net.stem[0].weight.requires_grad_(False)
    deeper = append_identity_units(net, 1, 1)
    x = make_random_images(net).double()
    assert torch.equal(deeper(x), net(x))
    assert not deeper.stem[0].weight.requires_grad
    assert deeper.units[1].branch[0].weight.requires_grad
    assert (
        remove_shortcuts(net).head[-1].weight.dtype
        == remove_units(deeper, ["stage1.unit2"]).head[-1].weight.dtype
        == torch.float64
    )


def test_new_branches_that_would_stay_at_zero_are_refused():
    net = build(network("cifar-record8,order=original,width=0.25"))
    with pytest.raises(UsageError, match="a BN whose scale is not learned, so that they would"):
        append_identity_units(net, 1, 1)


def test_surgery_trains_nothing_that_a_new_network_does_not_train():
    net = build(network("cifar-record8,order=full-preact,width=0.25"))
    deeper = append_identity_units(net, 1, 1)
    twin = build(deeper.plan.network)
    for (name, parameter), expected in zip(
        deeper.named_parameters(), twin.parameters(), strict=True
    ):
        assert parameter.requires_grad == expected.requires_grad, name
    deeper(torch.randn(2, 3, 32, 32)).square().sum().backward()
    new_weights = deeper.units[1].branch[-1].weight
    assert not new_weights.any()
    assert new_weights.grad.any()  # it is 0, but learns


def test_unusual_layers_of_a_sequential_are_kept_or_refused():
    same = (
        nn.Sequential(
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(64, 2),
        )
        .double()
        .eval()
    )
    residual = residualize(same)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    assert [type(m) for m in residual[0].after] == [nn.ReLU, nn.Dropout]
    assert torch.equal(residual[0](x), (x + same[:3](x)).relu())
    assert not residual.training
    for conv in (
        nn.Conv2d(4, 4, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
    ):
        with pytest.raises(UsageError, match="is not a 'same' convolution"):
            residualize(nn.Sequential(conv, nn.ReLU(), nn.Linear(4, 2)), every=1)
    with pytest.raises(
        UsageError,
        match="shortcut='pad' is not supported for an nn.Sequential, .*: use shortcut='project'",
    ):
        residualize(same, shortcut="pad")
    with pytest.raises(UsageError, match="cannot span 0 layers: give at least 1"):
        residualize(same, every=0)
