import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from residua import UsageError, create_model
from residua.config.network import Network, Unit
from residua.config.orders import ORDERS
from residua.config.papers import SHORTCUT_ABLATIONS, list_models, network
from residua.config.plan import plan
from residua.config.stages import Stage, Stem
from residua.net.build import build
from tests.oracle import OraclePreactResNet, OracleResNet, copy_weights


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("cifar-resnet20", OracleResNet(3)),
        ("cifar-plain20", OracleResNet(3, residual=False)),
        ("cifar-preresnet20", OraclePreactResNet(3)),
    ],
)
def test_a_built_net_equals_the_handwritten_oracle_bit_for_bit(name, oracle):
    net = create_model(name, seed=5)
    copy_weights(net, oracle)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
    ours, theirs = net(images), oracle(images)
    assert torch.equal(ours, theirs)
    F.cross_entropy(ours, labels).backward()
    F.cross_entropy(theirs, labels).backward()
    for a, b in zip(net.parameters(), oracle.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(net.buffers(), oracle.buffers(), strict=True):
        assert torch.equal(a, b)
    net.eval(), oracle.eval()
    assert torch.equal(net(images), oracle(images))


@pytest.mark.parametrize("name", [n for n in list_models() if not n.endswith(("1001", "1202"))])
def test_the_module_has_as_many_parameters_as_the_plan(name):
    assert sum(p.numel() for p in create_model(name).parameters()) == plan(network(name)).parameters


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-preresnet164", "resnet18", "resnet50"])
def test_the_plan_counts_multiply_adds_as_torch_does(name):
    net = create_model(name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *net.plan.network.input))
    assert counter.get_total_flops() == 2 * plan(network(name)).multiply_adds


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("row", SHORTCUT_ABLATIONS)
def test_every_order_builds_with_every_shortcut_of_table_1(order, row):
    from dataclasses import replace

    base = network("cifar-resnet14", input=(1, 8, 8), order=order)
    if row == "plain" and "scale" in ORDERS[order].last:
        with pytest.raises(UsageError, match="always outputs 0"):
            replace(SHORTCUT_ABLATIONS[row], order=ORDERS[order])
        return
    unit = replace(SHORTCUT_ABLATIONS[row], order=ORDERS[order])
    net = build(replace(base, unit=unit))
    scores = net(torch.randn(4, 1, 8, 8))
    scores.sum().backward()
    assert scores.shape == (4, 10)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_fully_connected_residual_net_builds():
    unit = Unit(kernels=(1, 1), order=ORDERS["bare"])
    spec = Network(
        name="mlp",
        input=(64,),
        stem=Stem(width=32, kernel=1),
        stages=(Stage(32, 4), Stage(48, 1)),
        unit=unit,
        classes=10,
    )
    net = build(spec)
    assert net(torch.randn(5, 64)).shape == (5, 10)
    assert sum(p.numel() for p in net.parameters()) == plan(spec).parameters


def test_initial_weights_have_the_he_standard_deviation_and_depend_on_the_seed():
    net, same, other = (create_model("cifar-resnet20", seed=seed) for seed in (1, 1, 2))
    weight = net.stages["stage3"][1].branch[0].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert torch.equal(weight, same.stages["stage3"][1].branch[0].weight)
    assert not torch.equal(weight, other.stages["stage3"][1].branch[0].weight)


def test_five_thousand_layers_build_without_recursion():
    spec = network("cifar-resnet5000", input=(1, 2, 2))
    net = build(spec)
    assert plan(spec).depth == 5000
    assert net.eval()(torch.zeros(1, 1, 2, 2)).shape == (1, 10)
