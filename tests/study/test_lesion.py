"""Lesions against nets that were really changed, and the gradient by path length against the gradient."""

from copy import deepcopy
from itertools import chain, combinations
from math import comb, exp

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import nn

from residua.errors import UsageError
from residua.net.build import Gated, build
from residua.net.surgery import deepen, remove, residualize
from residua.spec.lesion import Length, binomial, middle
from residua.spec.papers import network
from residua.study.anatomy import anatomy, at_rest, sequence
from residua.study.paths import gradient, interpolated, lengths, paths_to_take, shares, unrolled
from residua.study.wound import Wound, deleted, doublings, errors, onwards, swappings, thinnings
from tests.peers import randomised

NAMES = [
    "cifar-resnet20", "cifar-resnet14,shortcut=B", "cifar-resnet14,shortcut=C", "cifar-preresnet14",
    "cifar-preresnet11,block=bottleneck", "cifar-resnet14,join=constant", "cifar-resnet14,order=bn-after-add",
    "cifar-resnet14,join=drop-path",
]  # fmt: skip


def net_of(name, dtype=torch.float32):
    return randomised(build(network(name, input=(3, 8, 8)), seed=1)).to(dtype).eval()


def images(count=4, dtype=torch.float32):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)


def scores(net, wound, x):
    parts = anatomy(net)
    with torch.inference_mode():
        return parts.head(onwards(parts, wound, start(parts, wound.first, x)))


def start(parts, place, x):
    """The input of the unit at that place."""
    x = parts.stem(x)
    for unit in parts.units[:place]:
        x = unit.whole(x)
    return x


def silent():
    pass


@pytest.mark.parametrize("name", NAMES)
def test_a_deleted_unit_is_one_whose_branch_gives_zeros(name):
    net, x = net_of(name), images()
    for i, unit in enumerate(net.units):
        silenced = deepcopy(net)
        layers = [module for module in silenced.units[i].branch if module.state_dict()]
        nn.init.zeros_(layers[-1].weight)
        if layers[-1].bias is not None:
            nn.init.zeros_(layers[-1].bias)
        with torch.inference_mode():
            torch.testing.assert_close(scores(net, deleted(len(net.units), i), x), silenced(x), rtol=1e-5, atol=1e-5), unit


@pytest.mark.parametrize("name", ["cifar-highway8", "cifar-resnet14,join=exclusive-gate"])
def test_a_deleted_highway_unit_has_its_gate_closed(name):
    net, x = net_of(name), images()
    for i in range(len(net.units)):
        closed = deepcopy(net)
        join = closed.units[i].join
        assert isinstance(join, Gated)
        nn.init.zeros_(join.gate.weight)
        nn.init.constant_(join.gate.bias, -1e4)
        with torch.inference_mode():
            assert torch.equal(scores(net, deleted(len(net.units), i), x), closed(x))


@pytest.mark.parametrize("name", ["cifar-plain20", "cifar-resnet20", "cifar-preresnet20"])
def test_a_deleted_unit_is_a_removed_one_where_it_can_be_removed(name):
    net, x = net_of(name), images()
    with torch.inference_mode():
        assert torch.equal(scores(net, deleted(9, 4), x), remove(net, ["stage2.unit2"])(x))
        assert torch.equal(scores(net, deleted(9, 4, 8), x), remove(net, ["stage2.unit2", "stage3.unit3"])(x))


def test_of_a_plain_net_only_units_that_keep_the_shape_can_be_deleted():
    assert anatomy(net_of("cifar-plain20")).deletable == (0, 1, 2, 4, 5, 7, 8)
    assert anatomy(net_of("cifar-resnet20")).deletable == tuple(range(9))


def test_a_unit_that_starts_as_the_identity_is_missed_by_nobody():
    net = net_of("cifar-resnet14")
    deeper, x = deepen(net, stage=2, units=2), images()
    with torch.inference_mode():
        assert torch.equal(scores(deeper, deleted(8, 4, 5), x), net(x))


def test_a_residualised_plain_net_can_be_cut_too():
    net, x = residualize(net_of("cifar-plain14"), shortcut="pad").eval(), images()
    with torch.inference_mode():
        assert torch.equal(scores(net, deleted(6), x), net(x))
    assert anatomy(net).residual


def test_units_in_each_others_places_are_a_net_whose_units_were_exchanged():
    net, x = net_of("cifar-resnet20"), images()
    other = deepcopy(net)
    stage = other.stages["stage3"]
    stage[1], stage[2] = stage[2], stage[1]
    with torch.inference_mode():
        assert torch.equal(scores(net, Wound((0, 1, 2, 3, 4, 5, 6, 8, 7)), x), other(x))


def test_errors_are_those_of_changed_nets_and_the_net_is_left_as_it_was():
    net, x = net_of("cifar-resnet20").train(), images(20)
    net.units[0].requires_grad_(False)
    labels = torch.arange(20) % 10
    before, asking = deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    wounds = [deleted(9), deleted(9, 4), deleted(9, 8), Wound((0, 2, 1, 3, 4, 5, 6, 7, 8))]
    with at_rest(net):
        found = errors(anatomy(net), wounds, x, labels, batch=8, tell=silent)
        shares(anatomy(net), x, labels, draws=1, seed=0, tell=silent)
        with torch.inference_mode():
            wanted = [scores(net, wound, x).argmax(1) != labels for wound in wounds]
    assert found == [wrong.sum().item() / 20 for wrong in wanted]
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == asking
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2, 4), (4, 0, 1, 2, 3)])
def test_tau_is_kendalls(order):
    assert Wound(order).tau == pytest.approx(kendalltau(order, range(len(order))).statistic)


def test_choices_follow_from_the_seed_alone_and_stay_within_their_bounds():
    parts = anatomy(net_of("cifar-resnet32"))
    thin, swap = thinnings(parts, 3, seed=1), swappings(parts, 3, seed=1)
    assert (thin, swap) == (thinnings(parts, 3, seed=1), swappings(parts, 3, seed=1))
    assert thin != thinnings(parts, 3, seed=2)
    assert swap != swappings(parts, 3, seed=2)
    assert list(thin) == [1, 2, 4, 7, 8, 11, 13, 14, 15]
    for count, wounds in thin.items():
        assert len(wounds) == (3 if count < 15 else 1)
        assert all(len(wound.without) == count and wound.order == tuple(range(15)) for wound in wounds)
    stage = [unit.stage for unit in parts.units]
    for wound in chain(*swap.values()):
        assert [stage[i] for i in wound.order] == stage
        assert wound.order[5] == 5
        assert wound.order[10] == 10


def test_where_no_stage_has_two_units_alike_none_are_swapped():
    assert swappings(anatomy(net_of("cifar-resnet8")), 2, seed=0) == {}
    assert doublings(1) == [1]
    assert doublings(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("name", [*NAMES[1:], "fc-resnet10"])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(name):
    net, x = net_of(name, torch.float64), images(dtype=torch.float64)
    labels, count = torch.tensor([1, 2, 3, 4]), len(net.units)
    with at_rest(net):
        parts = anatomy(net)
        first = y = parts.stem(x).requires_grad_()
        for unit in parts.units:
            y = unit.whole(y)
        (wanted,) = torch.autograd.grad(F.cross_entropy(parts.head(y), labels), first)
        units, top = unrolled(parts, x, labels)
        total = torch.zeros_like(wanted)
        for k in range(count + 1):
            for through in combinations(range(count), k):
                direction, log_norm = gradient(units, top, frozenset(through))
                total += exp(log_norm) * direction
    torch.testing.assert_close(total, wanted, rtol=1e-9, atol=1e-12)


def test_shares_are_the_norms_of_paths_times_their_number():
    net, x, labels = net_of("cifar-resnet14"), images(), torch.tensor([1, 2, 3, 4])
    with at_rest(net):
        found = shares(anatomy(net), x, labels, draws=2, seed=0, tell=silent)
        units, top = unrolled(anatomy(net), x, labels)
        all_six = gradient(units, top, frozenset(range(6)))[1]
        none = gradient(units, top, frozenset())[1]
    assert (found[0].log_norm, found[6].log_norm) == pytest.approx((none, all_six))
    assert sum(path.share for path in found) == pytest.approx(1)
    weights = [comb(6, path.units) * exp(path.log_norm) for path in found]
    assert [path.share for path in found] == pytest.approx([weight / sum(weights) for weight in weights])


def test_where_every_branch_gives_zeros_the_gradient_comes_by_the_shortcuts_alone():
    net = build(network("cifar-preresnet14,start=identity", input=(3, 8, 8))).eval()
    with at_rest(net):
        found = shares(anatomy(net), images(), torch.tensor([1, 2, 3, 4]), draws=2, seed=0, tell=silent)
    assert [path.share for path in found] == [1, 0, 0, 0, 0, 0, 0]
    assert [path.log_norm is None for path in found] == [False] + [True] * 6


def test_of_many_lengths_some_are_sampled_and_the_others_lie_on_lines_between():
    assert lengths(9) == list(range(10))
    assert len(lengths(600)) == 32
    assert {0, 600} <= set(lengths(600))
    assert paths_to_take(9, draws=5) == 8 * 5 + 2
    assert interpolated({0: 0.0, 4: -8.0}, 1) == -2
    assert sum(binomial(600)) == pytest.approx(1)


def test_the_middle_of_the_gradient_leaves_a_twentieth_at_each_end():
    paths = tuple(Length(k, 0.0, True, share) for k, share in enumerate((0.04, 0.02, 0.5, 0.4, 0.03, 0.01)))
    assert middle(paths) == (1, 3)


class Block(nn.Module):
    """torchvision's habit: everything inside, nothing named."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.bn1(self.conv1(x)) + x)


def test_a_foreign_sequence_of_blocks_is_cut_by_the_names_of_its_children():
    blocks = [nn.Conv2d(3, 4, 3), nn.ReLU(), Block(4), Block(4), Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
    net = randomised(nn.Sequential(*blocks)).eval()
    parts, x = sequence(net, ["2", "3", "4"]), images()
    for i in range(3):
        without = nn.Sequential(*blocks[: 2 + i], *blocks[3 + i :]).eval()
        with torch.inference_mode():
            assert torch.equal(parts.head(onwards(parts, deleted(3, i), start(parts, i, x))), without(x))
    with pytest.raises(UsageError, match="no child 'layer1': this net has 0, 1, 2"):
        sequence(net, ["layer1"])
    with pytest.raises(UsageError, match="do not stand one behind the other"):
        sequence(net, ["2", "4"])
