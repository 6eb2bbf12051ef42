"""Views of test images: none, mirror, ten crops and six, wherever predictions are averaged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax

import residua
from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.evaluation_results import EvaluationResult
from residua.config.image_views import ImageViews
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.config.papers import network
from residua.config.recipe import Recipe
from residua.config.recipes import recipe
from residua.config.serialize import apply_override, from_json, to_json
from residua.data.augment import normalise_pixels
from residua.data.decode import preprocess_image
from residua.data.image_views import iterate_views, keep_margin_for_views
from residua.data.preprocessed_images import read_preprocessed_split
from residua.data.sources.resolve import resolve_dataset
from residua.errors import UsageError
from residua.net.build import build
from residua.net.model_folder import load_model_folder, read_model_config, save_pretrained
from residua.record import RunRecord
from residua.training.assess import predict_log_probabilities
from tests.cli_runner import run_cli
from tests.data.faulty_photos import CLASS_CHANNELS, make_picture, write_oblong_folder
from tests.third_party import randomize_weights, torchvision
from tests.training.short_runs import CPU_FP32

SIDE, RESIZED = 24, 32
CLASSES = tuple(sorted(CLASS_CHANNELS))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Oblong photographs in a folder of splits, whose corners are not alike."""
    return write_oblong_folder(tmp_path_factory.mktemp("views") / "pets")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    config = ModelConfig(
        network=network("cifar-resnet8", input=(3, SIDE, SIDE), classes=len(CLASSES)),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        resize=RESIZED,
    )
    net = randomize_weights(build(config.network)).eval()
    folder = tmp_path_factory.mktemp("views") / "model"
    save_pretrained(net, config, folder)
    return folder


@pytest.fixture(scope="module")
def ten_crop_probabilities(photo_folder, model_folder):
    """The probabilities that torchvision's transforms and a mean over ten softmaxes give."""
    net = residua.load(model_folder).net
    transforms = torchvision.transforms
    crops = transforms.Compose(
        [
            transforms.Resize(RESIZED),
            transforms.CenterCrop(RESIZED),
            transforms.TenCrop(SIDE),
            transforms.Lambda(lambda views: torch.stack([*map(transforms.ToTensor(), views)])),
            transforms.Normalize(MEAN, STD),
        ]
    )
    expected = {}
    with torch.inference_mode():
        for path in sorted(photo_folder.glob("val/*/*.png")):
            views = crops(Image.open(path).convert("RGB"))
            expected[path] = net(views).softmax(1).mean(0)
    return expected


def test_ten_crops_are_those_of_torchvision():
    photo = make_picture(7, 1).resize((57, 45))
    pixels = preprocess_image(photo, ImagePreprocessing((3, RESIZED, RESIZED), RESIZED))
    transforms = torchvision.transforms
    square = transforms.CenterCrop(RESIZED)(transforms.Resize(RESIZED)(photo))
    expected = {np.asarray(crop).tobytes() for crop in transforms.TenCrop(SIDE)(square)}
    ours = [view[0].permute(1, 2, 0) for view in iterate_views(pixels[None], "10", (SIDE, SIDE))]
    assert len(ours) == len(expected) == 10
    assert {crop.contiguous().numpy().tobytes() for crop in ours} == expected


def test_predict_and_evaluate_average_the_probabilities_of_ten_crops(
    photo_folder, model_folder, ten_crop_probabilities, capsys
):
    paths = [*map(str, ten_crop_probabilities)]
    words = ["predict", model_folder, *paths, "--json", "--top", "9"]
    _, out, _ = run_cli(capsys, *words, "--views", "10")
    for line, expected in zip(out.splitlines(), ten_crop_probabilities.values(), strict=True):
        found = {item["class"]: item["probability"] for item in json.loads(line)["top"]}
        assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-4)
    labels = [CLASSES.index(path.parent.name) for path in ten_crop_probabilities]
    stacked = torch.stack([*ten_crop_probabilities.values()])
    wrong = int((stacked.argmax(1) != torch.tensor(labels)).sum())
    loss = float(-stacked.log()[range(len(labels)), labels].mean())
    result = residua.load(model_folder).evaluate(photo_folder, views="10", split="test", quiet=True)
    assert (result.views, result.wrong, result.count) == ("10", wrong, len(labels))
    assert result.loss == pytest.approx(loss, abs=1e-4)
    code, out, _ = run_cli(
        capsys, "evaluate", model_folder, photo_folder, "--views=10", "--split=test", "--json"
    )
    assert (code, json.loads(out)["loss"]) == (0, pytest.approx(loss, abs=1e-4))
    assert json.loads(out)["views"] == "10"
    words = ["evaluate", model_folder, photo_folder, "--split=test", "--json"]
    for option, views in (([], "none"), (["--mirror"], "mirror"), (["--views=six"], "six")):
        _, out, _ = run_cli(capsys, *words, *option)
        assert json.loads(out)["views"] == views


@pytest.mark.parametrize("views", ["mirror", "10", "six"])
def test_the_classifier_gives_one_file_the_views_of_the_command_line(
    views: ImageViews, photo_folder, model_folder, capsys
):
    path = next(iter(sorted(photo_folder.glob("val/*/*.png"))))
    option = ["--mirror"] if views == "mirror" else ["--views", views]
    _, out, _ = run_cli(capsys, "predict", model_folder, path, "--json", *option)
    [prediction] = residua.load(model_folder).predict(path, views=views)
    assert json.loads(out)["probability"] == pytest.approx(prediction.probability, abs=1e-5)
    [alone] = residua.load(model_folder).predict(path)
    assert abs(alone.probability - prediction.probability) > 1e-6


def test_six_views_of_probabilities_are_those_of_scores(photo_folder, model_folder):
    classifier = residua.load(model_folder)
    path = next(iter(sorted(photo_folder.glob("val/*/*.png"))))
    pixels = classifier.read_pixels(path)[None]
    with torch.inference_mode():
        scores = [
            classifier.net(normalise_pixels(view, MEAN, STD))
            for view in iterate_views(pixels, "six", (SIDE, SIDE))
        ]
    weights = torch.tensor([0.25, 0.25, 0.125, 0.125, 0.125, 0.125])
    expected = (torch.stack(scores) * weights[:, None, None]).sum(0).softmax(1)[0]
    [prediction] = classifier.predict(path, views="six", top=9)
    found = dict(prediction.top)
    assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
@pytest.mark.parametrize("views", ["none", "mirror", "10", "six"])
def test_predict_and_evaluate_scale_the_same_average_by_the_temperature(
    views: ImageViews, temperature, photo_folder, model_folder, tmp_path, capsys
):
    folder = tmp_path / "model"
    net, config = load_model_folder(model_folder)
    save_pretrained(net, replace(config, temperature=temperature), folder)
    paths = sorted(photo_folder.glob("val/*/*.png"))
    words = ["predict", folder, *paths, "--json", "--top", "9", "--views", views]
    _, out, _ = run_cli(capsys, *words)
    tops = [json.loads(line)["top"] for line in out.splitlines()]
    predicted = [{item["class"]: item["probability"] for item in top} for top in tops]
    images = read_preprocessed_split(
        resolve_dataset(str(photo_folder), (3, SIDE, SIDE), CLASSES),
        "test",
        keep_margin_for_views(config, views),
    ).images
    log_probs = predict_log_probabilities(net, images, config, CPU_FP32, views=views).numpy()
    expected = softmax(log_probs / temperature, axis=1)  # as an evaluation scales them
    labels = [CLASSES.index(path.parent.name) for path in paths]
    assert images.labels.tolist() == labels
    for found, row in zip(predicted, expected, strict=True):
        assert [found[name] for name in CLASSES] == pytest.approx(row.tolist(), abs=1e-5)
    loss = residua.load(folder).evaluate(photo_folder, views=views, split="test", quiet=True).scaled
    right = [found[CLASSES[label]] for found, label in zip(predicted, labels, strict=True)]
    assert -np.log(right).mean() == pytest.approx(loss.loss, abs=1e-4)


def test_views_with_mirror_images_of_digits_are_refused_in_predictions(tmp_path, capsys):
    digits = get_dataset("digits")
    config = ModelConfig(
        network=network("cifar-resnet8", input=digits.input, classes=10),
        classes=digits.classes,
        mean=digits.mean,
        std=digits.std,
        dataset="digits",
    )
    save_pretrained(build(config.network), config, tmp_path / "model")
    Image.new("L", (8, 8)).save(tmp_path / "digit.png")
    words = ["predict", tmp_path / "model", tmp_path / "digit.png"]
    for option, remedy in (
        ("--mirror", "leave --mirror out"),
        ("--views=mirror", "use --views=none"),
        ("--views=six", "use --views=none"),
    ):
        code, out, error = run_cli(capsys, *words, option)
        assert (code, out) == (2, "")
        assert f"{option} cannot be used with a model of digits" in error
        assert remedy in error
        code, _, error = run_cli(capsys, "evaluate", tmp_path / "model", "digits", option)
        assert (code, remedy in error) == (2, True)
        assert f"{option} cannot be used with digits" in error
    with pytest.raises(UsageError, match="views=six cannot be used with a model of digits"):
        residua.load(tmp_path / "model").predict(tmp_path / "digit.png", views="six")


def read_size(path):
    with Image.open(path) as picture:
        return picture.size


def test_an_explanation_shows_the_center_of_ten_crops(photo_folder, model_folder, tmp_path, capsys):
    path = next(iter(sorted(photo_folder.glob("val/*/*.png"))))
    for views in ("none", "10"):
        words = ["--explain", tmp_path / views]
        assert run_cli(capsys, "predict", model_folder, path, "--views", views, *words)[0] == 0
    pictures = [read_size(path) for path in tmp_path.glob("*/*.png")]
    assert len(pictures) == 2
    assert len(set(pictures)) == 1


def test_training_measures_the_test_error_of_ten_crops(photo_folder, tmp_path, capsys):
    words = ["--model", "cifar-resnet8", "--size", "24", "--from", "none", "--precision", "fp32"]
    words += ["--set", "batch_size=8", "--steps", "6", "--set", "views=10", "--out", tmp_path / "r"]
    code, out, _ = run_cli(capsys, "train", photo_folder, *words, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["test_views"] == "10"
    assert read_model_config(tmp_path / "r" / "last").test_views == "10"
    again = residua.load(tmp_path / "r").evaluate(
        photo_folder, views="10", split="test", quiet=True
    )
    assert again.error_rate == result["test_error"]
    stored = RunRecord(tmp_path / "r").read_run().recipe
    assert stored.views == "10"


def test_ten_crops_are_refused_where_there_is_no_margin(
    photo_folder, model_folder, tmp_path, capsys
):
    code, _, error = run_cli(
        capsys, "train", "cifar10", "--steps", "1", "--set", "views=10", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "views=10 cannot be used with cifar10: ten crops need photographs with a margin" in error
    assert "use views=mirror or views=six" in error
    tight = tmp_path / "tight"
    shutil.copytree(model_folder, tight)
    config = json.loads((tight / "config.json").read_text())
    (tight / "config.json").write_text(json.dumps(config | {"resize": SIDE}))
    code, _, error = run_cli(capsys, "evaluate", tight, photo_folder, "--views", "10")
    assert (code, "use --views=mirror or --views=six" in error) == (2, True)
    image = next(iter(photo_folder.glob("val/*/*.png")))
    code, _, error = run_cli(capsys, "predict", tight, image, "--views", "10")
    assert (code, "of which it uses all: use the views mirror or six" in error) == (2, True)


def test_records_that_say_plain_are_read_as_images_alone(model_folder, photo_folder, capsys):
    old = {**to_json(recipe("photos")), "views": "plain"}
    assert from_json(Recipe, old) == recipe("photos")
    assert to_json(from_json(Recipe, old)) == to_json(recipe("photos"))
    config = to_json(read_model_config(model_folder))
    assert from_json(ModelConfig, {**config, "test_views": "plain"}).test_views == "none"
    image = next(iter(photo_folder.glob("val/*/*.png")))
    assert run_cli(capsys, "predict", model_folder, image, "--views", "plain")[0] == 0


def test_a_number_names_the_views_in_a_setting_and_others_are_refused():
    assert apply_override(recipe("photos"), "views=10").views == "10"
    with pytest.raises(UsageError, match="not one of 'none', 'mirror', '10', 'six'"):
        apply_override(recipe("photos"), "views=5")
    assert "ten_crops" in EvaluationResult.__dataclass_fields__
    assert main(["predict", "x", "y", "--views", "seven"]) == 2
