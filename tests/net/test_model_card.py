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
    config = make_config(test_error=0.05, test_images=10_000, test_views="six")
    six = render_model_card(config, 269_722)
    assert "| test error | 5.00 % of 10,000 images with six views (95 % CI " in six
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


@pytest.mark.parametrize(
    ("dataset", "word"),
    [("cifar10", "cifar10"), ("my pets (2)", "my-pets-2"), ("Häuser", "H-user"), ("犬", "unnamed")],
)
def test_the_type_of_the_data_set_is_a_word_that_the_hub_accepts(dataset, word):
    """The hub refuses a card unless it matches this pattern; the name may be any text."""
    hub = pytest.importorskip("huggingface_hub")
    text = render_model_card(make_config(dataset=dataset, test_error=0.5), 1)
    [result] = hub.ModelCard(text).data.eval_results
    assert (result.dataset_type, result.dataset_name) == (word, dataset)
    assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", word, re.ASCII)


def test_a_licence_that_the_hub_does_not_know_is_another_one_with_its_name():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(render_model_card(make_config(license="My Licence, 2nd"), 1)).data
    assert (data.license, data.license_name) == ("other", "my-licence-2nd")
    data = hub.ModelCard(render_model_card(make_config(license="cc-by-nc-4.0"), 1)).data
    assert (data.license, data.license_name) == ("cc-by-nc-4.0", None)
