import json
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.errors import DataError, RecordError, UsageError
from tests.same_weights import require_equal_weights

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs whose colour tells their class."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i in range(14):
            pixels = rng.integers(0, 90, (20, 26, 3), dtype=np.uint8)
            pixels[..., k] += 150
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run_folder(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    residua.train("cifar-resnet8", photos, size=16, steps=30, precision="fp32", out=out, quiet=True)
    return out


@pytest.fixture(scope="module")
def classifier(run_folder):
    return residua.load(run_folder)


def test_predictions_equal_those_of_the_command_line(classifier, run_folder, photos, capsys):
    assert main(["predict", str(run_folder), str(photos), "--json", "--top", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predictions = classifier.predict(photos, top=2)
    assert len(predictions) == len(lines) == 42
    for prediction, line in zip(predictions, lines, strict=True):
        assert prediction.source == line["path"]
        assert prediction.label == line["class"]
        assert prediction.probability == pytest.approx(line["probability"], abs=1e-5)
        assert len(prediction.top) == 2
    assert sum(p.label in p.source.split("/")[-2] for p in predictions) > 35


def test_the_same_photograph_in_every_form_has_the_same_prediction(classifier, photos):
    path = photos / "dog" / "3.png"
    image = Image.open(path)
    pixels = np.array(image)
    forms = [path, str(path), image, pixels, torch.from_numpy(pixels.transpose(2, 0, 1).copy())]
    expected = classifier.predict_one(path)
    assert str(expected).startswith(expected.label)
    for form in forms:
        single = classifier.predict_one(form)
        assert (single.label, single.top) == (expected.label, expected.top)
    for together in classifier.predict(forms):
        assert together.label == expected.label
        assert together.probability == pytest.approx(expected.probability, abs=1e-5)
    batch = classifier.predict(np.stack([pixels, pixels]))
    assert [p.label for p in batch] == [expected.label] * 2
    assert [p.source for p in batch] == ["image 1", "image 2"]


def test_an_image_is_read_from_its_address(classifier, photos):
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(photos))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        assert classifier.predict_one(f"{base}/owl/1.png").top == (
            classifier.predict_one(photos / "owl" / "1.png").top
        )
        with pytest.raises(DataError, match=r"1/none.png the URL cannot be read|none.png"):
            classifier.predict(f"{base}/none.png")
    finally:
        server.shutdown()
        server.server_close()


def test_an_unreadable_file_is_raised_or_kept(classifier, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.jpg is not an image|bad\.jpg"):
        classifier.predict([photos / "cat" / "1.png", bad])
    first, second = classifier.predict([photos / "cat" / "1.png", bad], unreadable="keep")
    assert first.label
    assert (second.label, second.top) == ("", ())
    assert second.error in str(second)


@pytest.mark.parametrize(
    ("images", "keywords", "sentence"),
    [
        (np.zeros((4, 5, 6, 7)), {}, "have neither 1 channel nor 3"),
        (np.zeros((5, 6, 7), np.uint8), {}, r"an array of shape \(5, 6, 7\) is not an image"),
        (np.full((5, 6), 3.0), {}, "floating-point images have values from 3 to 3"),
        ([3], {}, "image 1 cannot be used: int is not an image"),
        ("nothing.png", {}, "nothing.png cannot be read: No such file"),
        ([], {"top": 0}, "top=0 is invalid"),
        ([], {"batch_size": 0}, "batch_size=0 is invalid"),
        ([], {"unreadable": "skip"}, "unreadable has no value 'skip'"),
        ([], {"engine": "tourch"}, "did you mean 'torch'"),
    ],
)
def test_images_that_cannot_be_understood_are_refused(classifier, images, keywords, sentence):
    with pytest.raises((DataError, UsageError), match=sentence):
        classifier.predict(images, **keywords)


def test_an_empty_list_has_no_predictions(classifier):
    assert classifier.predict([]) == []


def test_a_folder_without_images_is_refused(classifier, tmp_path):
    with pytest.raises(DataError, match="no image was found in"):
        classifier.predict(tmp_path)


def test_a_folder_is_not_one_image(classifier, photos):
    with pytest.raises(UsageError, match="cat holds 14 images: call predict instead"):
        classifier.predict_one(photos / "cat")


def test_the_input_of_the_network_gives_its_probabilities(classifier, photos):
    path = photos / "cat" / "2.png"
    with torch.no_grad():
        scores = classifier.net(classifier.transform(path)[None])
    probabilities = torch.softmax(scores / classifier.config.temperature, 1)[0]
    label, probability = classifier.predict(path, engine="torch")[0].top[0]
    assert CLASSES[int(probabilities.argmax())] == label
    assert float(probabilities.max()) == pytest.approx(probability, abs=0.01)  # bf16 on some CPUs


def test_an_evaluation_equals_that_of_the_command_line(classifier, run_folder, photos, capsys):
    assert main(["evaluate", str(run_folder), str(photos), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    evaluation = classifier.evaluate(photos)
    assert (evaluation.count, evaluation.error_rate) == (facts["count"], facts["error"])
    assert (evaluation.loss, evaluation.split) == (facts["loss"], facts["split"])


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        (
            {"views": "seven"},
            "there is no kind of views 'seven': choose from none, mirror, 10, six",
        ),
        ({"views": "six", "mirror": True}, "mirror and views=six contradict each other: leave one"),
        ({"views": "plain", "mirror": True}, "mirror and views=plain contradict each other"),
    ],
)
def test_views_that_are_unknown_or_contradict_mirror_are_refused(
    classifier, photos, keywords, sentence
):
    with pytest.raises(UsageError, match=sentence):
        classifier.evaluate(photos, **keywords)


def test_a_test_error_is_shown_with_its_views(classifier):
    config = replace(classifier.config, test_error=0.05, test_views="six")
    shown = residua.Classifier(classifier.net, config)._repr_html_()
    assert "<th>test error</th><td>5.0 % with six views</td>" in shown
    result = residua.TrainingResult(classifier.net, config, {"test_error": 0.05}, None)
    assert repr(result).endswith("test error 5.00% with six views)")


def test_arrays_are_evaluated_whole_by_number_or_name(classifier, photos, capsys):
    images = np.stack([classifier.read_pixels(photos / c / "0.png").numpy() for c in CLASSES])
    by_number = classifier.evaluate((images, [0, 1, 2]))
    assert "it is not known whether the model was trained" in capsys.readouterr().err
    by_name = classifier.evaluate((images, list(CLASSES)))
    assert (by_number.count, by_number.split) == (3, "all")
    assert by_number.wrong == by_name.wrong
    with pytest.raises(DataError, match="label hen is not one of the classes: cat, dog, owl"):
        classifier.evaluate((images, ["cat", "hen", "owl"]))
    with pytest.raises(
        UsageError, match=r"takes images of shape \(3, 16, 16\), but those of arrays-"
    ):
        classifier.evaluate((images[:, :, :9], [0, 1, 2]))
    with pytest.raises(DataError, match="all in the split test: leave split=dev out"):
        classifier.evaluate((images, [0, 1, 2]), split="dev")


def test_features_are_the_inputs_of_the_last_layer(classifier, photos):
    paths = [photos / c / "0.png" for c in CLASSES]
    features = classifier.features(paths, batch_size=2)
    assert features.shape == (3, classifier.net.num_features)
    inputs = torch.stack([classifier.transform(path) for path in paths])
    with torch.no_grad():
        assert torch.allclose(classifier.net.get_classifier()(features), classifier.net(inputs))
    assert classifier.features([]).shape == (0, classifier.net.num_features)


def test_an_explanation_shows_the_image_beside_its_heat_map(classifier, photos):
    picture = classifier.explain(photos / "owl" / "0.png", target="owl")
    assert picture.width == 2 * picture.height
    with pytest.raises(UsageError, match="there is no class 'ovl': choose from cat, dog, owl"):
        classifier.explain(photos / "owl" / "0.png", target="ovl")


def test_an_export_predicts_the_same(classifier, photos, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    facts = classifier.export(tmp_path / "model.onnx", bake_preprocessing=True)
    assert facts["file"] == str(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    pixels = classifier.read_pixels(photos / "cat" / "0.png").numpy()[None]
    outputs = session.run(None, {session.get_inputs()[0].name: pixels})
    prediction = classifier.predict_one(photos / "cat" / "0.png")
    assert CLASSES[outputs[1].argmax()] == prediction.label
    with pytest.raises(UsageError, match="already exists: choose another out"):
        classifier.export(tmp_path / "model.onnx")


def test_a_loaded_network_is_the_trained_one_and_shows_itself(run_folder, photos):
    classifier = residua.load(str(run_folder))
    require_equal_weights(classifier.net, residua.from_pretrained(run_folder / "last"))
    assert classifier.classes == CLASSES
    assert not classifier.net.training
    assert repr(classifier) == "Classifier(cifar-resnet8, 3 classes)"
    page = classifier._repr_html_()
    assert "cat, dog, owl" in page
    assert "<script" not in page


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is not a model folder: it has no config.json"):
        residua.load(tmp_path)
    with pytest.raises(RecordError, match="does not exist"):
        residua.load(tmp_path / "none")


def test_vlad_has_no_features(tmp_path):
    result = residua.train("vlad,words=4,cells=1", "digits", quiet=True)
    with pytest.raises(UsageError, match="vlad,words=4,cells=1 has no features"):
        result.classifier.features([])
