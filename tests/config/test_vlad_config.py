import json

import pytest

from residua.config.joins import Add, Scale
from residua.config.model import ModelConfig
from residua.config.network import Unit
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.config.serialize import from_json, to_json
from residua.config.vlad_config import VladClassifier, make_vlad_classifier
from residua.errors import UsageError

COLOUR_VLAD = make_vlad_classifier("vlad", (3, 32, 32), 10)


def test_the_descriptor_size_is_cells_times_words_times_dimensions():
    value = make_vlad_classifier("vlad,patch=3,cells=2,words=7,dimensions=5", (1, 8, 8), 10)
    assert (value.patch_numel, value.patch_grid) == (9, (6, 6))
    assert value.descriptor_length == 2 * 2 * 7 * 5
    assert value.parameters == 9 + 9 * 5 + 7 * 5 + 10 * (140 + 1)


def test_a_name_sets_fields_and_the_dimensions_follow_the_patch_size():
    assert make_vlad_classifier("vlad,words=32,cost=1", (3, 32, 32), 10) == VladClassifier(
        name="vlad,words=32,cost=1",
        input=(3, 32, 32),
        classes=10,
        patch=4,
        dimensions=24,
        words=32,
        cells=3,
        cost=1.0,
    )
    assert make_vlad_classifier("vlad,patch=3", (1, 8, 8), 10).dimensions == 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)])
def test_there_is_a_default_for_any_shape_of_images(shape):
    assert make_vlad_classifier("vlad", shape, 2).input == shape


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "vlad,patch=9",
            "patches of side 9 do not fit into images of size (8, 8): choose a smaller patch",
        ),
        ("vlad,patch=0", "patch=0 is invalid: it must be at least 1"),
        ("vlad,patch=1", "a patch of a single number has no contrast: choose a larger patch"),
        ("vlad,words=0", "words=0 is invalid: it must be at least 1"),
        ("vlad,words=many", "vlad.words is 'many', not int"),
        ("vlad,cells=0", "cells=0 is invalid: it must be at least 1"),
        (
            "vlad,cells=6",
            "6 cells per side are too many: patches of side 4 fit in only (5, 5) positions; "
            "choose fewer cells or a smaller patch",
        ),
        (
            "vlad,dimensions=16",
            "dimensions=16 is invalid: a patch has 16 numbers, so choose 1 to 15",
        ),
        ("vlad,samples=3", "samples=3 is invalid: it must be at least 16"),
        ("vlad,contrast=0", "contrast=0.0 is invalid: it must be above 0"),
        ("vlad,cost=0", "cost=0.0 is invalid: it must be above 0"),
        (
            "vlad,depth=20",
            "'depth=20' is not a valid part of the name vlad: write KEY=VALUE, as in "
            "vlad,words=32, where KEY is one of patch, contrast",
        ),
        ("vlad,words", "'words' is not a valid part of the name vlad: write KEY=VALUE"),
    ],
)
def test_an_impossible_vlad_is_refused(name, sentence):
    with pytest.raises(UsageError) as refused:
        make_vlad_classifier(name, (1, 8, 8), 10)
    assert str(refused.value).startswith(sentence)


def test_shapes_that_are_not_images_and_a_single_class_are_refused():
    with pytest.raises(
        UsageError,
        match=r"input \(64,\) is invalid: VLAD needs \(channels, height, width\)",
    ):
        VladClassifier(input=(64,), classes=10, patch=4, dimensions=8, words=16, cells=1)
    with pytest.raises(UsageError, match="an SVM needs at least 2 classes: got 1"):
        make_vlad_classifier("vlad", (1, 8, 8), 1)


@pytest.mark.parametrize(
    "value", [COLOUR_VLAD, network("cifar-resnet20")], ids=lambda value: value.name
)
def test_configs_of_both_model_kinds_round_trip_through_json(value):
    config = ModelConfig(
        network=value, classes=tuple("abcdefghij"), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    assert from_json(ModelConfig, json.loads(json.dumps(to_json(config)))) == config


def test_only_vlad_writes_its_kind_so_that_network_records_stay_unchanged():
    run = Run(network("cifar-resnet20"), "cifar10", recipe("he2015"))
    assert run.json["network"] == to_json(run.network)
    assert "kind" not in run.json["network"]
    assert "kind" not in run.json["recipe"]["optimiser"]
    assert Run(COLOUR_VLAD, "cifar10", None).json["network"] == {
        "kind": "VladClassifier",
        **to_json(COLOUR_VLAD),
    }


def test_json_without_a_kind_is_read_as_a_network():
    config = {
        "network": to_json(network("cifar-resnet20")),
        "classes": list("abcdefghij"),
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert from_json(ModelConfig, config).network == network("cifar-resnet20")
    config["network"] = {"kind": "Network", **config["network"]}
    assert from_json(ModelConfig, config).network == network("cifar-resnet20")
    unit = to_json(Unit(join=Scale(0.5, 1.0)))
    assert from_json(Unit, unit | {"join": {}}).join == Add()


def test_a_network_has_a_recipe_and_vlad_has_none():
    with pytest.raises(UsageError, match="fitted without training steps: set recipe=None"):
        Run(COLOUR_VLAD, "cifar10", recipe("he2015"))
    with pytest.raises(
        UsageError, match="is trained in steps, but has no recipe: give the run a recipe"
    ):
        Run(network("cifar-resnet20"), "cifar10", None)
    with pytest.raises(UsageError, match="vlad has no recipe, because it is fitted without"):
        Run(COLOUR_VLAD, "cifar10", None).recipe_without_unneeded_warmup(20)
