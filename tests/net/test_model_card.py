import re

import pytest

import residua
from residua.config.model import ModelConfig
from residua.config.vlad_config import make_vlad_classifier
from residua.net.model_card import render_model_card
from residua.net.model_folder import save_pretrained
from residua.net.vlad import VladNetwork

NETWORK = residua.network("cifar-resnet20")


def make_config(**changes):
    fields = {
        "network": NETWORK,
        "classes": tuple("abcdefghij"),
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "dataset": "cifar10",
        "fingerprint": "0123abcd",
        "recipe": "he2015",
        "residua": "0.1.0",
        "torch": "2.13.0",
    }
    return ModelConfig(**fields | changes)


def test_a_model_card_states_known_facts_with_confidence_intervals():
    text = render_model_card(
        make_config(test_error=0.0827, test_images=10_000, license="apache-2.0"), 269_722
    )
    assert (
        "10 classes, input 3x32x32, 269,722 parameters; trained on cifar10 with the recipe he2015."
        in text
    )
    assert "| test error | 8.27 % of 10,000 images (95 % CI 7.75-8.83 %) |" in text
    assert "| training data | cifar10, fingerprint `0123abcd` |" in text
    assert "| licence | apache-2.0 |" in text
    assert "`a`, `b`, `c`" in text


def test_a_model_card_omits_unknown_facts():
    text = render_model_card(make_config(dataset="", fingerprint="", recipe=""), 269_722)
    assert "the origin of its weights is unknown" in text
    assert not re.search(r"license|licence|test error|model-index|training data", text)
    assert "| test error | 8.27 % |" in render_model_card(make_config(test_error=0.0827), 1)


def test_the_model_card_of_a_vlad_model_counts_its_parameters(tmp_path):
    value = make_vlad_classifier("vlad", (3, 32, 32), 10)
    save_pretrained(VladNetwork(value), make_config(network=value, recipe=""), tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert f"{value.parameters:,} parameters; fitted to cifar10" in card


def test_the_hub_can_parse_the_metadata_of_a_model_card(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    net = residua.create_model("cifar-resnet8", num_classes=2)
    asked = make_config(
        network=net.plan.network,
        classes=("a: b", "#`c`"),
        test_error=0.25,
        test_images=8,
        license="cc-by-4.0",
        dataset='my "pets"',
    )
    save_pretrained(net, asked, tmp_path / "m")
    data = hub.ModelCard.load(tmp_path / "m" / "README.md").data
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "residua",
        "cc-by-4.0",
        "image-classification",
    )
    [result] = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        'my "pets"',
        "accuracy",
        0.75,
    )
