"""A network that was trained on arrays remembers them, and says which images it evaluates."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

import residua
from residua.data.seen_images import SeenImages, decode_digests
from residua.errors import DataError

WRITES_RUN_PAGES = True

RNG = np.random.default_rng(11)
LABELS = np.arange(120) % 3
IMAGES = (RNG.integers(0, 60, (120, 10, 10)) + LABELS[:, None, None] * 60).astype(np.uint8)
NEW_IMAGES = RNG.integers(0, 180, (9, 10, 10)).astype(np.uint8)


class Pairs:
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(self.labels[index])


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return residua.train(
        "cifar-resnet8", (IMAGES, LABELS), steps=12, precision="fp32", out=out, quiet=True
    )


@pytest.fixture(scope="module")
def classifier(result):
    return residua.load(result.folder)


@pytest.mark.parametrize("make_data", [lambda *pair: pair, Pairs])
def test_images_that_were_trained_on_are_left_out(result, classifier, make_data, capsys):
    splits = result.metrics["splits"]
    evaluation = classifier.evaluate(make_data(IMAGES, LABELS))
    assert (evaluation.split, evaluation.count) == ("test", splits["test"])
    assert evaluation.error_rate == pytest.approx(result.metrics["test_error"])
    assert f"{splits['test']} of 120 images are evaluated: the model was trained on" in (
        capsys.readouterr().err
    )
    shuffled = np.random.default_rng(1).permutation(120)
    again = classifier.evaluate(make_data(IMAGES[shuffled] / 255, LABELS[shuffled]), quiet=True)
    assert (again.count, again.wrong) == (evaluation.count, evaluation.wrong)
    assert capsys.readouterr().err == ""


def test_a_mistake_is_found_at_its_position_in_the_data(classifier):
    wrong_labels = (LABELS + 1) % 3
    evaluation = classifier.evaluate((IMAGES, wrong_labels), quiet=True)
    assert evaluation.mistakes
    for mistake in evaluation.mistakes:
        position = int(mistake.where.removeprefix("test image "))
        assert wrong_labels[position] == mistake.truth
        guess = classifier.predict_one(IMAGES[position]).label
        assert guess == classifier.classes[mistake.guess]


def test_a_split_that_is_asked_for_is_the_one_of_the_run(result, classifier):
    for split in ("train", "dev", "test"):
        evaluation = classifier.evaluate((IMAGES, LABELS), split=split, quiet=True)
        assert (evaluation.split, evaluation.count) == (split, result.metrics["splits"][split])
    assert classifier.evaluate((IMAGES, LABELS), split="all", quiet=True).count == 120


def test_new_images_are_all_evaluated(classifier, capsys):
    evaluation = classifier.evaluate((NEW_IMAGES, LABELS[:9]))
    assert (evaluation.split, evaluation.count) == ("all", 9)
    assert "the model was trained on none of them" in capsys.readouterr().err


def test_images_that_were_all_trained_on_are_refused(result):
    images, labels = IMAGES[:60], LABELS[:60]
    trained = residua.train(
        "cifar-resnet8",
        {"train": (images, labels), "test": (NEW_IMAGES, LABELS[:9])},
        steps=1,
        quiet=True,
    ).classifier
    with pytest.raises(DataError, match="the data has no images for the test split: .*split=all"):
        trained.evaluate((images, labels))


def test_an_older_model_says_that_its_images_are_not_known(classifier, capsys):
    config = replace(classifier.config, train_digests="", dev_digests="")
    older = residua.Classifier(classifier.net, config)
    evaluation = older.evaluate((IMAGES, LABELS))
    assert (evaluation.split, evaluation.count) == ("all", 120)
    assert "it is not known whether the model was trained on any of them" in capsys.readouterr().err


def test_the_digests_of_arrays_are_not_taken_for_those_of_files(classifier):
    assert SeenImages.from_config(classifier.config) == SeenImages()
    seen = SeenImages.from_config(classifier.config, in_memory=True)
    first_bytes = {hashlib.sha256(image.tobytes()).digest()[:4] for image in IMAGES}
    assert seen.train | seen.dev < first_bytes
    assert decode_digests(classifier.config.train_digests) == frozenset()  # as older versions do


def test_a_dict_is_evaluated_by_its_own_splits(classifier):
    parts = {"training": (IMAGES[:12], LABELS[:12]), "test": (IMAGES[12:21], LABELS[12:21])}
    evaluation = classifier.evaluate(parts)
    assert (evaluation.split, evaluation.count) == ("test", 9)
    assert classifier.evaluate(parts, split="train").count == 12
    assert classifier.evaluate(parts, split="all").count == 21
    with pytest.raises(DataError, match="the data has no split dev, only train, test"):
        classifier.evaluate(parts, split="dev")


def test_three_grey_images_in_one_array_are_not_taken_for_one_in_colour(classifier):
    functions = (classifier.predict, classifier.predict_one, classifier.explain)
    for function in functions:
        with pytest.raises(DataError, match=r"3 grey images and as 1 RGB image: give list\(images"):
            function(IMAGES[:3])
    one_by_one = [classifier.predict_one(image).label for image in IMAGES[:3]]
    for written in (list(IMAGES[:3]), IMAGES[:3][..., None]):
        assert [p.label for p in classifier.predict(written)] == one_by_one
    assert len(classifier.predict(np.moveaxis(IMAGES[:3], 0, -1))) == 1
    with pytest.raises(DataError, match=r"or list\(images\) for several grey images"):
        classifier.predict(IMAGES[:5])


def test_an_evaluation_is_shown_on_one_line(classifier):
    evaluation = classifier.evaluate((IMAGES, LABELS), split="all", quiet=True)
    assert evaluation.accuracy == 1 - evaluation.error_rate
    shown = repr(evaluation)
    assert len(shown) < 160
    assert f"accuracy {100 * evaluation.accuracy:.1f} %, 95 % interval" in shown
    assert "count 120, split all)" in shown


def test_training_writes_the_pages_of_the_command(result):
    evaluation_page = result.folder / "evaluation" / "evaluation.html"
    assert result.metrics["page"] == str(result.folder / "report.html")
    assert result.metrics["evaluation_page"] == str(evaluation_page)
    assert "<html" in (result.folder / "report.html").read_text()
    assert "<html" in evaluation_page.read_text()


def test_a_module_of_ones_own_has_its_evaluation(tmp_path, capsys):
    module = nn.Sequential(nn.Flatten(), nn.Linear(100, 3))
    result = residua.train(module, (IMAGES, LABELS), steps=2, out=tmp_path / "run", quiet=True)
    assert result.metrics["page"] is None
    assert result.metrics["evaluation_page"] == str(tmp_path / "run/evaluation/evaluation.html")
    assert capsys.readouterr().err == ""
