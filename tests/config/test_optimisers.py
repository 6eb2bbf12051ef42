import pytest
import torch

from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.errors import UsageError
from residua.training.optimisers import build_torch_optimiser, make_parameter_groups

OPTIMISERS = [
    Sgd(),
    Sgd(momentum=0.0),
    Sgd(nesterov=True),
    AdamW(),
    RmsProp(),
    RmsProp(momentum=0.5),
    Muon(),
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_an_optimiser_keeps_as_many_values_per_parameter_as_it_says(optimiser):
    net = torch.nn.Linear(5, 7, bias=False)
    torch_optimiser = build_torch_optimiser(optimiser, make_parameter_groups(net, optimiser))
    for group in torch_optimiser.param_groups:
        group["lr"] = 0.1 * group["lr_scale"]
    net(torch.ones(2, 5)).sum().backward()
    torch_optimiser.step()
    states = [
        value
        for value in torch_optimiser.state[net.weight].values()
        if isinstance(value, torch.Tensor) and value.shape == net.weight.shape
    ]
    assert len(states) == optimiser.states_per_parameter


def test_the_papers_update_rule_is_the_default():
    """He et al. 2015, section 4.2: weight decay 0.0001 and momentum 0.9."""
    rule = Sgd()
    assert (rule.momentum, rule.weight_decay, rule.nesterov, rule.decay) == (
        0.9,
        1e-4,
        False,
        "all",
    )
    assert rule.description == "SGD with momentum 0.9 and weight decay 0.0001"
    assert "Nesterov's momentum" in Sgd(nesterov=True).description
    assert "without momentum" in Sgd(momentum=0.0).description


def test_only_muon_decays_the_weights_of_the_units_alone_and_scales_the_other_rates():
    assert Muon().decay == "units"
    assert Muon(lr_scale=3.0).lr_scale_outside_units == 3.0
    assert all(rule.lr_scale_outside_units == 1 for rule in (Sgd(), AdamW(), RmsProp()))


def test_a_decay_of_the_other_parameters_is_described():
    units = "Muon with momentum 0.9 and weight decay 0.03 for the weights of the units"
    assert Muon().description == units
    assert Muon(others_decay=0.01).description == f"{units}, and 0.01 for all others"


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Sgd(momentum=1.1), "momentum"),
        (lambda: Sgd(weight_decay=-1.0), "weight_decay"),
        (lambda: Sgd(momentum=0.0, nesterov=True), "nesterov"),
        (lambda: AdamW(beta1=-0.1), "beta1"),
        (lambda: AdamW(beta2=1.5), "beta2"),
        (lambda: AdamW(weight_decay=-1.0), "weight_decay"),
        (lambda: RmsProp(smoothing=2.0), "smoothing"),
        (lambda: RmsProp(momentum=-1.0), "momentum"),
        (lambda: RmsProp(weight_decay=-1.0), "weight_decay"),
        (lambda: Muon(momentum=1.5), "momentum"),
        (lambda: Muon(weight_decay=-0.5), "weight_decay"),
        (lambda: Muon(lr_scale=-1.0), "share"),
        (lambda: Muon(rounds=0), "rounds"),
        (lambda: Muon(rounds=101), "rounds"),
        (lambda: Muon(others_momentum=1.0), "others_momentum"),
        (lambda: Muon(others_momentum=-0.1), "others_momentum"),
        (lambda: Muon(others_decay=-1e-4), "others_decay"),
        (lambda: Muon(others_decay=float("nan")), "others_decay"),
        (lambda: Muon(head_scale=-1.0), "head_scale"),
    ],
)
def test_impossible_settings_are_refused_by_their_name(make, word):
    with pytest.raises(UsageError, match=word):
        make()
