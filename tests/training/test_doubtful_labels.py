"""Labels that are probably wrong: against loops by hand, and with labels changed on purpose."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from residua.data.images import Images
from residua.data.preprocessed_images import NamedImages
from residua.training.calibration import cross_fit_temperatures
from residua.training.doubtful_labels import describe_doubtful_labels, find_doubtful_labels


def list_doubtful_by_hand(probs, labels):
    """The rule in plain Python: one image after the other."""
    classes = range(len(probs[0]))
    own = {k: [p[k] for p, y in zip(probs, labels, strict=True) if y == k] for k in classes}
    means = {k: sum(values) / len(values) for k, values in own.items() if values}
    found = []
    for i, (p, y) in enumerate(zip(probs, labels, strict=True)):
        guess = max(classes, key=lambda k: p[k])
        is_sure = guess in means and p[guess] >= means[guess]
        if guess != y and is_sure and p[y] < means[y] and p[y] < 0.5 / len(classes):
            found.append(i)
    return sorted(found, key=lambda i: probs[i][labels[i]])


def draw_predictions(seed, count=200, class_count=4):
    generator = np.random.default_rng(seed)
    labels = generator.integers(class_count - 1, size=count)  # none is of the last class
    log_probs = generator.normal(size=(count, class_count)).astype(np.float32)
    log_probs[np.arange(count), labels] += 1.0
    return log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True)), labels


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_doubted_by_the_rule_of_confident_learning(seed):
    log_probs, labels = draw_predictions(seed)
    ones = np.ones((len(labels), 1), np.float32)
    wanted = list_doubtful_by_hand(np.exp(log_probs).tolist(), labels.tolist())
    assert find_doubtful_labels(log_probs, labels, ones).tolist() == wanted
    assert len(wanted) > 3


def test_a_second_opinion_is_asked_for_doubtful_labels_alone_and_must_agree():
    log_probs, labels = draw_predictions(0)
    ones = np.ones((len(labels), 1), np.float32)
    alone, asked = find_doubtful_labels(log_probs, labels, ones), []

    def answer(positions):
        asked.extend(positions.tolist())
        other = log_probs[positions].copy()
        other[0] = np.log(0.25)  # undecided on the first
        other[1] = np.roll(other[1], 1)  # sure of yet another class
        return other

    both = find_doubtful_labels(log_probs, labels, ones, answer)
    assert asked == alone.tolist()
    assert both.tolist() == alone[2:].tolist()


def test_without_doubt_nobody_is_asked():
    log_probs = np.log(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    positions = find_doubtful_labels(log_probs, np.array([0, 1]), np.ones((2, 1)), pytest.fail)
    assert positions.tolist() == []


def test_a_doubtful_label_has_the_probabilities_of_the_network_itself():
    log_probs = np.log(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32))
    images = NamedImages(Images(torch.zeros(2, 1, 8, 8), torch.tensor([0, 0])), ["a", "b"])
    [doubtful] = describe_doubtful_labels(images, log_probs, np.array([1]))
    assert (doubtful.where, doubtful.label, doubtful.guess) == ("b", 0, 1)
    assert doubtful.label_probability == pytest.approx(0.2)
    assert doubtful.probability == pytest.approx(0.8)


def count_found_flips(features, labels, seed=0):
    """Change 5 % of the labels, and fit a linear classifier in four folds.

    Returns the numbers of changed labels, of doubted labels, and of labels that are both.
    """
    generator, class_count = np.random.default_rng(seed), int(labels.max()) + 1
    is_flipped = np.zeros(len(labels), bool)
    is_flipped[generator.choice(len(labels), len(labels) // 20, replace=False)] = True
    shifts = generator.integers(1, class_count, is_flipped.sum())
    given = labels.copy()
    given[is_flipped] = (labels[is_flipped] + shifts) % class_count
    model = LogisticRegression(C=0.1, max_iter=1000)
    log_probs = cross_val_predict(model, features, given, cv=4, method="predict_log_proba")
    log_probs = log_probs.astype(np.float32)
    positions = find_doubtful_labels(log_probs, given, cross_fit_temperatures(log_probs, given))
    return is_flipped.sum(), len(positions), is_flipped[positions].sum()


def test_of_the_digits_nine_in_ten_doubted_labels_were_changed():
    digits = load_digits()
    flipped, doubted, both = count_found_flips(digits.data / 16, digits.target)
    assert flipped == 89
    assert both / doubted > 0.85, (doubted, both)
    assert both / flipped > 0.65, (doubted, both)


def test_of_photographs_doubted_labels_are_six_times_as_often_changed_ones(real_data_folder):
    """A linear classifier on small pictures and colours is right on three in four of them."""
    features, labels = [], []
    for label, name in enumerate(("parachute", "english_springer", "garbage_truck")):
        for path in sorted((real_data_folder / "imagenette-sample" / "train" / name).iterdir()):
            with Image.open(path) as image:
                image.draft("RGB", (32, 32))  # decodes an eighth of the size
                picture = image.convert("RGB")
            hsv = np.asarray(picture.convert("HSV")).reshape(-1, 3)
            colours = np.histogramdd(hsv, (6, 3, 3), [(0, 256)] * 3)[0].ravel() / len(hsv)
            pixels = np.asarray(picture.resize((8, 8)), np.float64).ravel() / 255
            features.append(np.concatenate([pixels, 10 * np.sqrt(colours)]))
            labels.append(label)
    flipped, doubted, both = count_found_flips(np.array(features), np.array(labels))
    assert flipped == 15
    assert both / doubted > 6 * 0.05, (doubted, both)
    assert both >= 8, (doubted, both)
