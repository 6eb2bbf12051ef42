"""timm's networks by timm's names: the same parameters, multiply-adds and outputs."""

import pytest
import torch
from torch import nn

from residua.config.papers import network
from residua.config.plan import plan
from residua.config.timm_names import LISTED_TIMM_NETWORKS
from residua.errors import RecordError, UsageError
from residua.net.build import build
from residua.net.convert.weights import convert_foreign_weights, convert_to_project
from tests.third_party import randomize_weights, timm


def count_in_timm(name):
    """Parameters and multiply-adds of timm's network, counted by hooks on its own modules."""
    with torch.device("meta"):
        net = timm.create_model(name).eval()
        multiply_adds = []

        def count(layer, inputs, output):
            weight = layer.weight
            is_convolution = weight.ndim > 2
            multiply_adds.append(
                weight[0].numel() * output[0].numel() if is_convolution else weight.numel()
            )

        for module in net.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        net(torch.empty(1, 3, 224, 224))
    return sum(parameter.numel() for parameter in net.parameters()), sum(multiply_adds)


CLASHES = {"resnet50", "resnet101", "resnet152", "resnet200"}
"""Names that are the papers' here and timm's there: timm's bottlenecks stride on the 3x3."""


def is_network(name):
    try:
        network(name)
    except UsageError:
        return False
    return True


def count_here(name):
    planned = plan(network(name))
    return planned.parameters, planned.multiply_adds


def test_networks_of_timm_have_its_parameters_and_multiply_adds_and_clashes_are_known():
    shared = [name for name in timm.list_models("*resne*") if is_network(name)]
    assert set(LISTED_TIMM_NETWORKS) <= set(shared)
    differing = {name for name in shared if count_here(name) != count_in_timm(name)}
    assert differing == CLASHES
    for name in CLASHES:
        assert count_here(f"{name},stride=3x3") == count_in_timm(name)


PYTORCHCV_TWINS = {
    "resnet26": ("resnet26,block=basic", 17_960_232),
    "resnetbc14b": ("resnet14,block=bottleneck", 10_064_936),
    "resnetbc26b": ("resnet26", 15_995_176),
    "seresnet18": ("resnet18,attention=se", 11_778_592),
    "preresnet18": ("preresnet18,order=full-preact-bn-stem,fork=shape-change", 11_687_848),
}
"""Names of pytorchcv for networks that have another name here, with the parameters it states."""


@pytest.mark.parametrize("name", PYTORCHCV_TWINS)
def test_a_network_whose_name_pytorchcv_uses_for_another_has_its_own(name):
    ours, parameters = PYTORCHCV_TWINS[name]
    assert plan(network(ours)).parameters == parameters
    assert ours != name


@pytest.mark.parametrize(
    "name",
    [
        *("resnet10t", "resnet14t", "resnet18d", "seresnet18", "ecaresnet26t"),
        *("resnext50_32x4d", "resnetv2_18", "resnetv2_18d"),
    ],
)
def test_weights_of_timm_give_its_outputs_and_come_back(name):
    theirs = randomize_weights(timm.create_model(name)).double()
    converted = convert_foreign_weights(theirs.state_dict(), network(name))
    assert (converted.missing, converted.unexpected, converted.caveats) == ((), (), "")
    ours = build(network(name)).double().eval()
    ours.load_state_dict(converted.tensors)
    images = torch.randn(2, 3, 65, 65, dtype=torch.float64)  # odd: pools cut their last window
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    returned = convert_to_project(ours.state_dict(), network(name), "timm")
    assert returned.keys() == theirs.state_dict().keys()
    assert all(torch.equal(returned[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("theirs", "ours", "sentence"),
    [
        (
            "resnet18d",
            "resnet18,stem=deep",
            "the file's shortcuts have a module before their projections, such as an average pool, "
            "those of resnet18,stem=deep have none",
        ),
        (
            "resnet18",
            "resnet18,shortcut=D",
            "the file's shortcuts begin with their projections, those of "
            "resnet18,shortcut=pool-project with an average pool",
        ),
    ],
)
def test_a_pool_before_a_projection_is_seen_in_the_file(theirs, ours, sentence):
    with pytest.raises(RecordError) as refused:
        convert_foreign_weights(timm.create_model(theirs).state_dict(), network(ours))
    assert str(refused.value).startswith(sentence)


def test_a_pool_that_the_file_cannot_show_is_a_caveat():
    tensors = timm.create_model("resnetv2_18d").state_dict()
    assert not convert_foreign_weights(tensors, network("resnetv2_18d")).caveats
    without_pool = network("preresnet18,stem=deep,fork=shape-change")
    assert "average pools" in convert_foreign_weights(tensors, without_pool).caveats
