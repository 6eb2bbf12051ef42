"""ResiduaClassifier as scikit-learn's own tools and checks use it."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from torch import nn

import residua
from residua.config.serialize import apply_override
from residua.errors import DataError, UsageError
from residua.sklearn import ResiduaClassifier
from tests.same_weights import require_equal_weights

DIGITS = load_digits()
X = (DIGITS.images / 16).astype(np.float32)[:120]  # (n, 8, 8), in [0, 1]
Y = DIGITS.target[:120]


class TinyNet(nn.Sequential):
    """A network that is trained in no time."""

    def __init__(self, classes=10, values=64):
        super().__init__(nn.Flatten(), nn.Linear(values, 32), nn.ReLU(), nn.Linear(32, classes))


def make_classifier(model="cifar-resnet8", **parameters):
    parameters = {"steps": 3, "precision": "fp32", "device": "cpu"} | parameters
    return ResiduaClassifier(model, **parameters)


def make_tiny_classifier(**parameters):
    torch.manual_seed(0)
    recipe = residua.recipe("small")
    for change in ("batch_size=10", "schedule.lr=0.1", "augment.pad=0"):
        recipe = apply_override(recipe, change)
    return make_classifier(TinyNet(), **{"steps": 40, "recipe": recipe} | parameters)


def test_it_learns_digits_and_its_predictions_are_its_most_probable_labels():
    classifier = make_tiny_classifier().fit(X, Y)
    assert classifier.score(X, Y) > 0.8
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (120, 10)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-12)
    assert np.array_equal(classifier.predict(X), classifier.classes_[probabilities.argmax(1)])


@pytest.mark.parametrize(
    "names",
    [
        np.arange(10) * 7 - 20,
        np.array([f"digit {i}" for i in "5409871326"]),
        np.array([f"digit {i}" for i in "5409871326"], dtype=object),
        np.arange(10).astype(float),
    ],
    ids=["whole numbers with gaps", "texts", "objects", "floating point"],
)
def test_labels_of_every_kind_come_back_as_they_were(names):
    classifier = make_tiny_classifier().fit(X, names[Y])
    assert np.array_equal(classifier.classes_, np.unique(names))
    predicted = classifier.predict(X)
    assert predicted.dtype == names.dtype
    assert accuracy_score(names[Y], predicted) > 0.8
    assert classifier.classifier_.classes == tuple(map(str, np.unique(names)))


def test_all_images_train_so_that_one_of_each_class_is_enough():
    images, labels = X[:10], Y[:10]  # the digits from 0 to 9
    assert make_tiny_classifier().fit(images, labels).score(images, labels) == 1


def test_it_starts_from_the_weights_of_another_network(tmp_path):
    keywords = {"steps": 1, "precision": "fp32", "device": "cpu", "quiet": True}
    start = residua.train("cifar-resnet8", (X, Y), out=tmp_path / "run", **keywords)
    tuned = make_classifier(None, initial_weights=tmp_path / "run", freeze=True).fit(X, Y)
    stem = next(iter(start.net.stem.parameters()))
    assert torch.equal(next(iter(tuned.net_.stem.parameters())), stem)


def test_it_trains_as_residua_train_does_on_the_same_images():
    labels = Y[:40]
    given = {"train": (X[:40], labels), "dev": (X[40:50], labels[:10]), "test": (X[:9], labels[:9])}
    keywords = {"steps": 3, "seed": 4, "precision": "fp32", "device": "cpu", "quiet": True}
    result = residua.train("cifar-resnet8", given, classes=list("0123456789"), **keywords)
    classifier = make_classifier(random_state=4).fit(X[:40], labels)
    require_equal_weights(classifier.net_, result.net)
    assert classifier.config_.test_error is None
    answer = result.classifier.predict(X[50:90, :, :, None])
    assert [guess.label for guess in answer] == classifier.predict(X[50:90]).astype(str).tolist()


def test_flat_images_need_their_shape_and_are_then_the_same_images():
    flat, rgb = X.reshape(120, 64), np.stack([X, X**2, 1 - X], axis=1)
    with pytest.raises(ValueError, match="give image_shape="):
        make_tiny_classifier().fit(flat, Y)
    for shape in [(1, 8), (1, 8, 9), (64, 1, 1), 64]:
        with pytest.raises(ValueError, match="does not fit X, which has 64 values for each image"):
            make_tiny_classifier(image_shape=shape).fit(flat, Y)
    expected = make_tiny_classifier().fit(X, Y).predict_proba(X)
    classifier = make_tiny_classifier(image_shape=(1, 8, 8)).fit(flat, Y)
    assert np.array_equal(classifier.predict_proba(flat), expected)
    assert np.array_equal(classifier.predict_proba(X), expected)
    assert classifier.n_features_in_ == 64
    colour = make_classifier(TinyNet(values=192), image_shape=(3, 8, 8))
    of_flat = colour.fit(rgb.reshape(120, -1), Y).predict_proba(rgb)
    assert np.array_equal(colour.fit(rgb, Y).predict_proba(rgb), of_flat)


def test_what_cannot_be_fitted_is_a_value_error_of_one_sentence():
    cases = [
        ((X, Y[:5]), {}, "X has 120 images and y has 5 labels: give one label for each image"),
        ((X * 16, Y), {}, "give unnormalised images"),
        ((X[Y == 1], Y[Y == 1]), {}, "there is only one class"),
        ((X, Y + 0.5), {}, "Unknown label type"),
        ((X, Y), {"model": "cifar-resnet9"}, "depth must be"),
        ((X, Y), {"epochs": 1}, "steps and epochs cannot be combined"),
        ((X, Y), {"freeze": True}, "freeze needs pretrained weights: add initial_weights$"),
        ((X, Y), {"random_state": -1}, "random_state=-1 is invalid"),
    ]
    for arguments, parameters, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            make_classifier(**parameters).fit(*arguments)
        assert not isinstance(caught.value, DataError)


def test_images_of_another_shape_than_those_of_fit_are_refused():
    classifier = make_tiny_classifier().fit(X, Y)
    with pytest.raises(
        UsageError, match=r"X has images of shape \(1, 8, 7\), but ResiduaClassifier was"
    ):
        classifier.predict(X[:, :, 1:])


def test_before_fit_nothing_is_predicted():
    for call in (
        lambda classifier: classifier.predict(X),
        lambda classifier: classifier.predict_proba(X),
        lambda classifier: classifier.classifier_,
    ):
        with pytest.raises(NotFittedError):
            call(make_classifier())


def test_a_module_is_not_changed_and_two_fits_are_equal():
    torch.manual_seed(0)
    module = TinyNet()
    before = [parameter.clone() for parameter in module.parameters()]
    classifier = make_classifier(module)
    first = classifier.fit(X, Y).predict_proba(X)
    assert np.array_equal(classifier.fit(X, Y).predict_proba(X), first)
    assert all(map(torch.equal, module.parameters(), before))
    assert classifier.model is module


def test_a_random_state_draws_the_seed():
    def fit_with(random_state):
        return make_classifier(random_state=random_state).fit(X[:20], Y[:20]).predict_proba(X[:20])

    same = [fit_with(np.random.RandomState(3)) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], fit_with(np.random.RandomState(4)))
    np.random.seed(3)  # what None draws from
    assert np.array_equal(same[0], fit_with(None))


def test_a_pickled_classifier_predicts_the_same():
    classifier = make_classifier().fit(X, Y)
    before = classifier.predict_proba(X)
    restored = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(restored.predict_proba(X), before)
    assert restored.classifier_.predict(X[:1, :, :, None])[0].label in "0123456789"


def test_a_clone_has_the_parameters_and_no_network():
    classifier = make_classifier(recipe="small", image_shape=(1, 8, 8)).fit(X, Y)
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    assert not hasattr(copy, "net_")
    assert copy.set_params(steps=5).steps == 5


def test_pipelines_cross_validation_and_grid_searches_accept_it():
    scale = FunctionTransformer(lambda flat: flat / 16)
    pipeline = make_pipeline(scale, make_tiny_classifier(image_shape=(1, 8, 8)))
    scores = cross_val_score(pipeline, DIGITS.data[:120], Y, cv=2, error_score="raise")
    assert len(scores) == 2
    assert min(scores) > 0.5
    search = GridSearchCV(make_tiny_classifier(), {"steps": [1, 40]}, cv=2, error_score="raise")
    assert search.fit(X, Y).best_params_ == {"steps": 40}
    assert search.score(X, Y) > 0.8


class TableClassifier(ResiduaClassifier):
    """Takes any table as grey images of 4 x 4 pixels, so that scikit-learn's checks can fit it."""

    def convert_to_pixels(self, X):
        table = np.asarray(X, dtype=float)
        if table.ndim != 2 or not np.isfinite(table).all():
            raise UsageError(f"X has the shape {table.shape}: Reshape your data")
        padded = np.zeros((len(table), 16))
        padded[:, : table.shape[1]] = 1 / (1 + np.exp(-table))
        return super().convert_to_pixels(padded.reshape(-1, 4, 4))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "check_classifiers_classes",
        "check_classifiers_one_label",
        "check_classifiers_regression_target",
        "check_dict_unchanged",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_dont_overwrite_parameters",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimators_fit_returns_self",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_estimators_unfitted",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_get_params_invariance",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_requires_y_none",
        "check_set_params",
        "check_supervised_y_2d",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_own_check_passes(name):
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this version of scikit-learn has no {name}")
    check("TableClassifier", TableClassifier("cifar-resnet8", steps=2, precision="fp32"))
