"""The papers' equations hold for the nets that are built, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residua import create_model, network, plan
from residua.config.joins import Add, Drop, Gate, Scale
from residua.net.build import build
from residua.net.joins import GatedSum
from residua.net.layers import SubsampleAndPad, ZeroPadShortcut


def make_float64_net(name, **changes):
    """A float64 net in evaluation mode whose BN statistics are not those of a fresh net."""
    net = create_model(name, **changes).double().eval()
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net


def build_with_join(join, name="cifar-resnet8"):
    base = network(name)
    return build(replace(base, unit=replace(base.unit, join=join)))


@pytest.mark.parametrize(
    "name", ["cifar-preresnet32", "cifar-preresnet164", "cifar-resnet32,order=relu-before-add"]
)
def test_with_identity_shortcuts_the_output_is_the_input_plus_all_branches(name):
    """x_L = x_l + sum of F(x_i) (He et al. 2016, Eq. 4)."""
    net = make_float64_net(name)
    first, *rest = net.stages["stage1"]
    x = start = first(net.stem(torch.randn(2, 3, 32, 32, dtype=torch.float64)))
    total = torch.zeros_like(x)
    for unit in rest:
        total += unit.branch(x)
        x = unit(x)
    assert total.abs().max() > 0.1
    assert (x - (start + total)).abs().max() < 1e-12 * x.abs().max()


@pytest.mark.parametrize("name", ["cifar-preresnet32", "cifar-resnet32,order=relu-before-add"])
def test_the_gradient_of_identity_units_has_a_direct_path(name):
    """dE/dx_l = dE/dx_L (1 + d/dx_l sum of F(x_i)) (He et al. 2016, Eq. 5)."""
    net = make_float64_net(name)
    first, *rest = net.stages["stage2"]
    x = (
        first(net.stages["stage1"](net.stem(torch.randn(2, 3, 16, 16, dtype=torch.float64))))
        .detach()
        .requires_grad_()
    )
    last, total = x, torch.zeros_like(x)
    for unit in rest:
        total = total + unit.branch(last)
        last = unit(last)
    error = net.head(net.stages["stage3"](last)).logsumexp(1).sum()
    at_x, at_last = torch.autograd.grad(error, [x, last], retain_graph=True)
    [through_branches] = torch.autograd.grad(total, x, at_last)
    assert through_branches.abs().max() > 0
    assert (at_x - (at_last + through_branches)).abs().max() < 1e-12 * at_x.abs().max()


def test_in_the_2015_design_the_sum_holds_only_where_the_relu_clips_nothing():
    """x_L != x_l + sum of F(x_i) once a ReLU follows the addition: the question S10 starts from."""
    net = make_float64_net("cifar-resnet32")
    first, *rest = net.stages["stage1"]
    x = start = first(net.stem(torch.randn(2, 3, 32, 32, dtype=torch.float64)))
    total, clipped = torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    for unit in rest:
        branch = unit.branch(x)
        clipped |= x + branch < 0
        total += branch
        x = unit(x)
    gap = (x - (start + total)).abs()
    assert clipped.any()
    assert gap[~clipped].max() < 1e-12
    assert gap[clipped].min() > 0


@pytest.mark.parametrize(
    "name",
    [
        "cifar-resnet20",
        "cifar-preresnet20",
        "cifar-resnet20,order=bare",
        "fc-resnet10",
        "lecture-resnet12",
    ],
)
def test_zero_weights_make_a_unit_the_identity(name):
    """W = b = 0 gives a[l+2] = g(a[l]) = a[l] (S14): a[l] is a ReLU's output, or g the identity."""
    net = make_float64_net(name)
    planned = [p for p in net.plan.units if p.shortcut == () and not p.lead]
    assert planned
    for p in planned:
        unit = net.stages[f"stage{p.stage}"][p.index - 1]
        for parameter in unit.branch.parameters():
            torch.nn.init.zeros_(parameter)
        x = torch.randn(2, p.output_shape.channels, *p.output_shape.size, dtype=torch.float64)
        x = x.relu() if p.after else x
        assert torch.equal(unit(x), x)


def test_a_branch_that_starts_at_zero_gives_the_identity_at_any_depth():
    for name in (
        "cifar-resnet56,start=identity",
        "cifar-preresnet56,start=identity",
        "cifar-resnet56,order=skipinit",
    ):
        net = create_model(name).eval()
        x = net.stem(torch.randn(2, 3, 32, 32)).relu()
        for unit in net.stages["stage1"]:
            assert torch.equal(unit(x), unit.lead(x) if len(unit.lead) else x)
        assert any((p == 0).all() for p in net.units[0].branch.parameters())


@pytest.mark.parametrize("name", ["cifar-resnet8", "cifar-preresnet8", "fc-resnet6"])
def test_a_closed_gate_is_the_identity(name):
    base = network(name)
    net = build(replace(base, unit=replace(base.unit, join=Gate(-1000.0)))).eval()
    unit, planned = net.units[0], net.plan.units[0]
    x = torch.rand(2, planned.output_shape.channels, *planned.output_shape.size)
    assert torch.equal(unit(x), unit.lead(x))


def test_joins_follow_their_equations():
    x, f = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)

    def build_join(value):
        return build_with_join(value).stages["stage1"][0].join

    assert torch.equal(build_join(Add())(x, x, f), x + f)
    assert torch.equal(build_join(Scale(0.5, 0.25))(x, x, f), 0.5 * x + 0.25 * f)
    both, shortcut = build_join(Gate(-3.0)), build_join(Gate(-3.0, scales="shortcut"))
    assert isinstance(both, GatedSum)
    assert both.gate.bias.tolist() == [-3.0] * 16
    g = torch.sigmoid(both.gate(x))
    assert torch.equal(both(x, x, f), (1 - g) * x + g * f)
    g = torch.sigmoid(shortcut.gate(x))
    assert torch.equal(shortcut(x, x, f), (1 - g) * x + f)


def test_a_highway_layer_mixes_carry_and_transform():
    """y = H(x) T(x) + x (1 - T(x)) (Srivastava et al. 2015, Eq. 3), against numpy."""
    net = make_float64_net("fc-highway10", input=(64,))
    x = np.abs(np.random.default_rng(0).standard_normal((5, 128)))
    unit = net.units[0]
    w, b, w_t, b_t = (
        p.detach().numpy() for p in (*unit.branch.parameters(), *unit.join.parameters())
    )
    assert set(b_t) == {-2.0}
    t = 1 / (1 + np.exp(-(x @ w_t.T + b_t)))
    expected = np.maximum(x @ w.T + b, 0) * t + x * (1 - t)
    assert np.abs(unit(torch.from_numpy(x)).detach().numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("shortcut", ["project", "pad"])
def test_the_fully_connected_block_matches_numpy(shortcut):
    """a[l+2] = g(W[l+2] g(W[l+1] a[l] + b[l+1]) + b[l+2] + W_s a[l]) (S7, S8).

    W_s is 256x128: a learned projection, or zero padding.
    """
    net = make_float64_net(f"fc-resnet10,shortcut={shortcut}", input=(1, 8, 8))
    assert plan(net.plan.network).depth == 10
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)  # biases that matter
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8))
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}

    def layer(name, a):
        return a @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    a = np.maximum(layer("stem.1", images.reshape(5, 64)), 0)
    for unit in (f"stages.stage{s}.{u}" for s in (1, 2) for u in (0, 1)):
        z = layer(f"{unit}.branch.2", np.maximum(layer(f"{unit}.branch.0", a), 0))
        if a.shape[1] != z.shape[1]:
            fixed = np.concatenate([np.zeros((64, 128)), np.eye(128), np.zeros((64, 128))])
            w_s = weights[f"{unit}.shortcut.0.weight"] if shortcut == "project" else fixed
            assert w_s.shape == (256, 128)
            a = a @ w_s.T
        a = np.maximum(z + a, 0)
    expected = layer("head.0", a)
    assert np.abs(net(torch.from_numpy(images)).detach().numpy() - expected).max() < 1e-10


def test_stochastic_depth_survival_decreases_linearly_and_preserves_the_mean():
    """p_l = 1 - l/L (1 - p_L) (Huang et al. 2016, Eq. 4)."""
    net = build_with_join(Drop(branch=0.5), "cifar-resnet20")
    dropped = [unit.join.drop_path for unit in net.units]
    assert dropped == pytest.approx([0.5 * unit / 9 for unit in range(1, 10)])
    join = net.units[-1].join
    shortcut, branch = torch.randn(4000, 2, 1, 1), torch.ones(4000, 2, 1, 1)
    torch.manual_seed(0)
    added = (join.train()(shortcut, shortcut, branch) - shortcut).round(decimals=4)
    assert set(added.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(added[:, 0], added[:, 1])  # an image keeps its whole branch, or none of it
    assert added.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(join.eval()(shortcut, shortcut, branch), shortcut + branch)


def test_same_padding_keeps_shortcut_and_branch_shapes_equal_at_any_size():
    """Every branch ends in the shape of its shortcut, for even and odd sizes (S16)."""
    for size in (7, 8, 33):
        for name in (
            "cifar-resnet20",
            "cifar-resnet20,shortcut=B",
            "cifar-highway11",
            "resnet18",
            "resnet50",
            "lecture-resnet12",
        ):
            net = create_model(name, input=(3, size, size))
            assert net(torch.randn(2, 3, size, size)).shape == (2, net.plan.network.classes)


@pytest.mark.parametrize(("stride", "before", "after"), [(2, 8, 8), (2, 0, 16), (1, 3, 5)])
def test_the_zero_padding_of_a_gpu_is_that_of_a_cpu(stride, before, after):
    """In one autograd Function, of which PyTorch's operators on a CPU are the oracle."""
    x = torch.randn(2, 16, 7, 6).to(memory_format=torch.channels_last).requires_grad_()
    expected = ZeroPadShortcut(stride, before, after)(x)
    y = SubsampleAndPad.apply(x, stride, before, after)
    assert torch.equal(y, expected)
    dy = torch.randn_like(expected)
    [wanted] = torch.autograd.grad(expected, x, dy)
    [found] = torch.autograd.grad(y, x, dy)
    assert torch.equal(found, wanted)
    for tensor in (y, found):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
