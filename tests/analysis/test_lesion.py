"""Ablations equal modified nets, and the gradients of all paths sum up to the gradient."""

from copy import deepcopy
from itertools import chain, combinations
from math import comb, exp

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from torch import nn

from residua.analysis.ablation import (
    Ablation,
    compute_last_unit_output,
    delete_units,
    list_powers_of_two_and_maximum,
    measure_ablation_errors,
    sample_random_deletions,
    sample_random_swaps,
)
from residua.analysis.modes import frozen_eval_mode
from residua.analysis.parts import dissect_network, dissect_sequential
from residua.analysis.path_gradients import (
    build_unit_graphs,
    choose_sampled_lengths,
    compute_path_gradient,
    count_sampled_paths,
    interpolate_log_norm,
    measure_gradient_shares,
)
from residua.config.lesion_results import (
    PathLengthShare,
    central_length_range,
    share_of_paths_by_length,
)
from residua.config.papers import network
from residua.errors import UsageError
from residua.net.build import build
from residua.net.joins import GatedSum
from residua.net.surgery import append_identity_units, remove_units, residualize
from tests.third_party import randomize_weights

NETWORK_NAMES = [
    "cifar-resnet20",
    "cifar-resnet14,shortcut=B",
    "cifar-resnet14,shortcut=C",
    "cifar-preresnet14",
    "cifar-preresnet11,block=bottleneck",
    "cifar-resnet14,join=constant",
    "cifar-resnet14,order=bn-after-add",
    "cifar-resnet14,join=drop-path",
]


def make_net(name, dtype=torch.float32):
    return randomize_weights(build(network(name, input=(3, 8, 8)), seed=1)).to(dtype).eval()


def make_random_images(count=4, dtype=torch.float32):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)


def compute_ablated_scores(net, ablation, x):
    """The logits (n, classes) of the ablated network."""
    parts = dissect_network(net)
    with torch.inference_mode():
        return parts.head(
            compute_last_unit_output(
                parts, ablation, compute_unit_input(parts, ablation.first_changed_index, x)
            )
        )


def compute_unit_input(parts, unit_index, x):
    """The input of the unit at that index of the intact network."""
    x = parts.stem(x)
    for unit in parts.units[:unit_index]:
        x = unit.intact(x)
    return x


def do_nothing():
    pass


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_deleting_a_unit_equals_zeroing_its_branch(name):
    net, x = make_net(name), make_random_images()
    for i in range(len(net.units)):
        silenced = deepcopy(net)
        layers = [module for module in silenced.units[i].branch if module.state_dict()]
        nn.init.zeros_(layers[-1].weight)
        if layers[-1].bias is not None:
            nn.init.zeros_(layers[-1].bias)
        with torch.inference_mode():
            torch.testing.assert_close(
                compute_ablated_scores(net, delete_units(len(net.units), i), x),
                silenced(x),
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.parametrize("name", ["cifar-highway8", "cifar-resnet14,join=exclusive-gate"])
def test_deleting_a_highway_unit_equals_closing_its_gate(name):
    net, x = make_net(name), make_random_images()
    for i in range(len(net.units)):
        closed = deepcopy(net)
        join = closed.units[i].join
        assert isinstance(join, GatedSum)
        nn.init.zeros_(join.gate.weight)
        nn.init.constant_(join.gate.bias, -1e4)
        with torch.inference_mode():
            assert torch.equal(
                compute_ablated_scores(net, delete_units(len(net.units), i), x), closed(x)
            )


@pytest.mark.parametrize("name", ["cifar-plain20", "cifar-resnet20", "cifar-preresnet20"])
def test_deleting_a_unit_equals_removing_it_by_surgery(name):
    net, x = make_net(name), make_random_images()
    with torch.inference_mode():
        assert torch.equal(
            compute_ablated_scores(net, delete_units(9, 4), x),
            remove_units(net, ["stage2.unit2"])(x),
        )
        assert torch.equal(
            compute_ablated_scores(net, delete_units(9, 4, 8), x),
            remove_units(net, ["stage2.unit2", "stage3.unit3"])(x),
        )


def test_in_a_plain_net_only_shape_preserving_units_can_be_deleted():
    assert dissect_network(make_net("cifar-plain20")).deletable_indices == (0, 1, 2, 4, 5, 7, 8)
    assert dissect_network(make_net("cifar-resnet20")).deletable_indices == tuple(range(9))


def test_deleting_an_identity_unit_changes_nothing():
    net = make_net("cifar-resnet14")
    deeper, x = append_identity_units(net, stage=2, count=2), make_random_images()
    with torch.inference_mode():
        assert torch.equal(compute_ablated_scores(deeper, delete_units(8, 4, 5), x), net(x))


def test_units_of_a_residualized_plain_net_can_be_deleted():
    net, x = residualize(make_net("cifar-plain14"), shortcut="pad").eval(), make_random_images()
    with torch.inference_mode():
        assert torch.equal(compute_ablated_scores(net, delete_units(6), x), net(x))
    assert dissect_network(net).is_residual


def test_swapping_units_equals_exchanging_them_in_the_module():
    net, x = make_net("cifar-resnet20"), make_random_images()
    other = deepcopy(net)
    stage = other.stages["stage3"]
    stage[1], stage[2] = stage[2], stage[1]
    with torch.inference_mode():
        assert torch.equal(
            compute_ablated_scores(net, Ablation((0, 1, 2, 3, 4, 5, 6, 8, 7)), x), other(x)
        )


def test_ablation_errors_match_modified_nets_and_the_net_is_unchanged():
    net, x = make_net("cifar-resnet20").train(), make_random_images(20)
    net.units[0].requires_grad_(False)
    labels = torch.arange(20) % 10
    before, requires_grad_before = (
        deepcopy(net.state_dict()),
        [p.requires_grad for p in net.parameters()],
    )
    ablations = [
        delete_units(9),
        delete_units(9, 4),
        delete_units(9, 8),
        Ablation((0, 2, 1, 3, 4, 5, 6, 7, 8)),
    ]
    with frozen_eval_mode(net):
        errors = measure_ablation_errors(
            dissect_network(net), ablations, x, labels, batch_size=8, on_step=do_nothing
        )
        measure_gradient_shares(
            dissect_network(net), x, labels, draws_per_length=1, seed=0, on_step=do_nothing
        )
        with torch.inference_mode():
            wrong = [
                compute_ablated_scores(net, ablation, x).argmax(1) != labels
                for ablation in ablations
            ]
    assert errors == [is_wrong.sum().item() / 20 for is_wrong in wrong]
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == requires_grad_before
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2, 4), (4, 0, 1, 2, 3)])
def test_tau_matches_kendalls_tau(order):
    assert Ablation(order).kendall_tau == pytest.approx(
        kendalltau(order, range(len(order))).statistic
    )


def test_random_ablations_depend_on_the_seed_only_and_stay_within_stages():
    parts = dissect_network(make_net("cifar-resnet32"))
    deletions, swaps = (
        sample_random_deletions(parts, 3, seed=1),
        sample_random_swaps(parts, 3, seed=1),
    )
    assert (deletions, swaps) == (
        sample_random_deletions(parts, 3, seed=1),
        sample_random_swaps(parts, 3, seed=1),
    )
    assert deletions != sample_random_deletions(parts, 3, seed=2)
    assert swaps != sample_random_swaps(parts, 3, seed=2)
    assert list(deletions) == [1, 2, 4, 7, 8, 11, 13, 14, 15]
    for count, ablations in deletions.items():
        assert len(ablations) == (3 if count < 15 else 1)
        assert all(
            len(ablation.deleted_units) == count and ablation.unit_order == tuple(range(15))
            for ablation in ablations
        )
    stages = [unit.stage for unit in parts.units]
    for ablation in chain(*swaps.values()):
        assert [stages[i] for i in ablation.unit_order] == stages
        assert ablation.unit_order[5] == 5
        assert ablation.unit_order[10] == 10


def test_without_interchangeable_units_nothing_is_swapped():
    assert sample_random_swaps(dissect_network(make_net("cifar-resnet8")), 2, seed=0) == {}
    assert list_powers_of_two_and_maximum(1) == [1]
    assert list_powers_of_two_and_maximum(12) == [1, 2, 4, 8, 12]


@pytest.mark.parametrize("name", [*NETWORK_NAMES[1:], "fc-resnet10"])
def test_the_gradients_of_all_paths_add_up_to_the_gradient(name):
    net, x = make_net(name, torch.float64), make_random_images(dtype=torch.float64)
    labels, count = torch.tensor([1, 2, 3, 4]), len(net.units)
    with frozen_eval_mode(net):
        parts = dissect_network(net)
        first = y = parts.stem(x).requires_grad_()
        for unit in parts.units:
            y = unit.intact(y)
        (gradient,) = torch.autograd.grad(F.cross_entropy(parts.head(y), labels), first)
        graphs, output_gradient = build_unit_graphs(parts, x, labels)
        total = torch.zeros_like(gradient)
        for length in range(count + 1):
            for branch_units in combinations(range(count), length):
                direction, log_norm = compute_path_gradient(
                    graphs, output_gradient, frozenset(branch_units)
                )
                total += exp(log_norm) * direction
    torch.testing.assert_close(total, gradient, rtol=1e-9, atol=1e-12)


def test_gradient_shares_are_path_norms_times_path_counts():
    net, x, labels = make_net("cifar-resnet14"), make_random_images(), torch.tensor([1, 2, 3, 4])
    with frozen_eval_mode(net):
        lengths = measure_gradient_shares(
            dissect_network(net), x, labels, draws_per_length=2, seed=0, on_step=do_nothing
        )
        graphs, output_gradient = build_unit_graphs(dissect_network(net), x, labels)
        longest = compute_path_gradient(graphs, output_gradient, frozenset(range(6)))
        shortest = compute_path_gradient(graphs, output_gradient, frozenset())
    assert (lengths[0].log_norm, lengths[6].log_norm) == pytest.approx(
        (shortest.log_norm, longest.log_norm)
    )
    assert sum(length.share for length in lengths) == pytest.approx(1)
    weights = [comb(6, length.units) * exp(length.log_norm) for length in lengths]
    assert [length.share for length in lengths] == pytest.approx(
        [weight / sum(weights) for weight in weights]
    )


def test_with_zero_branches_the_gradient_flows_through_the_shortcuts_only():
    net = build(network("cifar-preresnet14,start=identity", input=(3, 8, 8))).eval()
    with frozen_eval_mode(net):
        lengths = measure_gradient_shares(
            dissect_network(net),
            make_random_images(),
            torch.tensor([1, 2, 3, 4]),
            draws_per_length=2,
            seed=0,
            on_step=do_nothing,
        )
    assert [length.share for length in lengths] == [1, 0, 0, 0, 0, 0, 0]
    assert [length.log_norm is None for length in lengths] == [False] + [True] * 6


def test_many_path_lengths_are_sampled_and_interpolated_linearly():
    assert choose_sampled_lengths(9) == list(range(10))
    assert len(choose_sampled_lengths(600)) == 32
    assert {0, 600} <= set(choose_sampled_lengths(600))
    assert count_sampled_paths(9, draws_per_length=5) == 8 * 5 + 2
    assert interpolate_log_norm({0: 0.0, 4: -8.0}, 1) == -2
    assert sum(share_of_paths_by_length(600)) == pytest.approx(1)


def test_the_central_range_of_the_gradient_cuts_5_percent_at_each_end():
    paths = tuple(
        PathLengthShare(k, 0.0, True, share)
        for k, share in enumerate((0.04, 0.02, 0.5, 0.4, 0.03, 0.01))
    )
    assert central_length_range(paths) == (1, 3)


class UnnamedBlock(nn.Module):
    """A residual block whose addition and ReLU are not modules, as in torchvision."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return F.relu(self.bn1(self.conv1(x)) + x)


def test_a_third_party_sequential_is_ablated_by_the_names_of_its_children():
    blocks = [
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        UnnamedBlock(4),
        UnnamedBlock(4),
        UnnamedBlock(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    ]
    net = randomize_weights(nn.Sequential(*blocks)).eval()
    parts, x = dissect_sequential(net, ["2", "3", "4"]), make_random_images()
    for i in range(3):
        without = nn.Sequential(*blocks[: 2 + i], *blocks[3 + i :]).eval()
        with torch.inference_mode():
            assert torch.equal(
                parts.head(
                    compute_last_unit_output(
                        parts, delete_units(3, i), compute_unit_input(parts, i, x)
                    )
                ),
                without(x),
            )
    with pytest.raises(
        UsageError, match="the network has no child module 'layer1': choose from 0, 1"
    ):
        dissect_sequential(net, ["layer1"])
    with pytest.raises(UsageError, match="are not consecutive: give adjacent child modules"):
        dissect_sequential(net, ["2", "4"])
