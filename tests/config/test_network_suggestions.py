"""Names of networks that people type: a right suggestion, or none."""

import pytest

from residua.config.papers import network
from residua.errors import UsageError

SUGGESTIONS = {
    "ResNet50": "resnet50",
    "resnet-50": "resnet50",
    "resnet_50": "resnet50",
    "se-resnet50": "seresnet50",
    "se_resnet50": "seresnet50",
    "resnext50": "resnext50_32x4d",
    "resnext-50": "resnext50_32x4d",
    "seresnext50": "seresnext50_32x4d",
    "resnet50b": "resnet50,stride=3x3",
    "resnet50_v1.5": "resnet50,stride=3x3",
    "tv_resnet50": "resnet50,stride=3x3",
    "ig_resnext101_32x8d": "resnext101_32x8d",
    "resnet50v2": "resnetv2_50",
    "resnetbc14b": "resnet14,block=bottleneck",
    "wrn-28-10": "cifar-wrn28-10",
    "wideresnet28-10": "cifar-wrn28-10",
    "wrn50_2": "wide_resnet50_2",
    "wide-resnet-50-2": "wide_resnet50_2",
    "cifar_resnet20": "cifar-resnet20",
    "resnet50-d": "resnet50d",
    "cifar-resnt20": "cifar-resnet20",
}


@pytest.mark.parametrize("name", SUGGESTIONS)
def test_a_name_of_other_projects_suggests_the_same_network(name):
    with pytest.raises(UsageError) as refused:
        network(name)
    assert str(refused.value) == (
        f"there is no network {name!r}: did you mean {SUGGESTIONS[name]!r}?"
    )
    network(SUGGESTIONS[name])


@pytest.mark.parametrize(
    "name", ["densenet121", "resnest50", "res2net50", "skresnet50", "pyramidnet110", "vgg16"]
)
def test_another_family_suggests_no_network(name):
    with pytest.raises(UsageError, match=rf"there is no network '{name}': it is of another family"):
        network(name)


def test_another_number_is_never_suggested():
    with pytest.raises(UsageError, match="residua models lists the networks, and other depths"):
        network("resmet123")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet20", "cifar-resnet20"),
        ("preresnet110", "cifar-preresnet110"),
        ("cifar-resnet1001", "cifar-preresnet1001,order=original"),
    ],
)
def test_a_depth_of_another_family_names_its_network(name, suggestion):
    with pytest.raises(UsageError, match=suggestion):
        network(name)
    network(suggestion)
