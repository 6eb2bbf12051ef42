"""Training at one size of images and evaluating at another one."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import residua
from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.memory import estimate_run_memory
from residua.config.model import ImagePreprocessing
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.recipes import recipe
from residua.data.batches import make_training_batches
from residua.data.decode import preprocess_image
from residua.data.read import read_split
from residua.data.sources.resolve import resize_for_recipe, resolve_dataset
from residua.errors import UsageError
from residua.net.model_folder import read_model_config
from residua.record import RunRecord
from residua.training.dry_run import describe_phases
from residua.training.run import train_run
from residua.training.run_request import RunRequest, resolve_run
from tests.cli_runner import run_cli
from tests.data.faulty_photos import write_oblong_folder
from tests.third_party import torchvision
from tests.training.short_runs import CPU_FP32, ignore_progress, never_stop

WORDS = ["--from", "none", "--precision", "fp32", "--set", "batch_size=8", "--steps", "4"]
SIZES = ["--size", "24", "--set", "train_size=16", "--set", "test_resize=28"]


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    return write_oblong_folder(tmp_path_factory.mktemp("sizes") / "pets")


@pytest.fixture(scope="module")
def run_folder(photo_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("sizes") / "run"
    words = ["--model", "cifar-resnet8", *SIZES, *WORDS, "--out", str(out)]
    assert main(["train", str(photo_folder), *words]) == 0
    return out


def test_batches_have_the_training_size_and_the_model_the_test_size(photo_folder, run_folder):
    config = read_model_config(run_folder / "last")
    assert (config.input, config.resize) == ((3, 24, 24), 28)
    sized = replace(recipe("photos"), batch_size=8, train_size=16, test_resize=28)
    data = resize_for_recipe(resolve_dataset(str(photo_folder), (3, 24, 24)), sized)
    images = read_split(data, "train")
    assert images.image_size == (28, 28)
    batches = make_training_batches(images, sized, data, data.mean, data.std, 0, None)
    assert batches.make_batch(0)[0].shape == (8, 3, 16, 16)


def test_evaluation_and_prediction_use_the_test_size(photo_folder, run_folder, capsys):
    result = json.loads((run_folder / "run.json").read_text())["result"]
    code, out, _ = run_cli(
        capsys, "evaluate", run_folder, photo_folder, "--split", "test", "--json"
    )
    assert code == 0
    evaluation = json.loads(out)
    assert evaluation["error"] == result["test_error"]
    classifier = residua.load(run_folder)
    transforms = torchvision.transforms
    prepare = transforms.Compose([transforms.Resize(28), transforms.CenterCrop(24)])
    path = next(iter(sorted(photo_folder.glob("val/*/*.png"))))
    with Image.open(path) as photo:
        expected = transforms.functional.pil_to_tensor(prepare(photo.convert("RGB")))
        assert torch.equal(preprocess_image(photo, ImagePreprocessing((3, 24, 24), 28)), expected)
    assert torch.equal(classifier.read_pixels(path), expected)


def test_a_run_that_finds_its_data_by_its_record_has_the_same_sizes(photo_folder, tmp_path, capsys):
    run_folder = tmp_path / "squares"
    words = ["--model", "cifar-resnet8", *SIZES, *WORDS, "--storage", "squares"]
    assert run_cli(capsys, "train", photo_folder, *words, "--out", run_folder)[0] == 0
    run = RunRecord(run_folder).read_run()
    result = train_run(
        run, tmp_path / "run", CPU_FP32, on_progress=ignore_progress, should_stop=never_stop
    )
    assert read_model_config(tmp_path / "run" / "last").resize == 28
    assert result["test_error"] == RunRecord(run_folder).read_result()["test_error"]


@pytest.mark.parametrize("storage", ["raw", "jpeg", "files", "squares"])
def test_photographs_are_kept_at_the_largest_size_to_which_crops_are_resized(
    photo_folder, tmp_path, capsys, storage
):
    words = ["--model", "cifar-resnet8", "--size", "24", *WORDS, "--storage", storage]
    words += ["--set", "augment.area=1", "--set", "augment.shorter_side=[28, 60]"]
    words += ["--set", "augment.pca_colour=0.1", "--set", "views=10", "--out", tmp_path / "run"]
    code, out, error = run_cli(capsys, "train", photo_folder, *words, "--json")
    assert code == 0, error
    environment = json.loads((tmp_path / "run" / "run.json").read_text())["environment"]
    assert environment.get("stored_side") == (60 if storage != "squares" else None)
    assert read_model_config(tmp_path / "run" / "last").resize == 28
    again = residua.load(tmp_path / "run").evaluate(
        photo_folder, views="10", split="test", quiet=True
    )
    assert again.error_rate == json.loads(out)["test_error"]


def test_memory_is_estimated_for_the_training_size():
    full, data = plan(network("resnet18", input=(3, 64, 64))), get_dataset("cifar10")
    sizes = {
        side: estimate_run_memory(
            full, replace(recipe("photos"), train_size=side), data, 256
        ).activations
        for side in (0, 32, 64, 128)
    }
    assert sizes[32] < sizes[64] == sizes[0] < sizes[128]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "fc-resnet10"], "does not take images of other sizes: leave train_size out"),
        (["--model", "cifar-resnet8", "--set", "test_resize=20"], "smaller than the crops of 24"),
        (
            ["--model", "cifar-resnet8", "--set", "augment.area=1", "--set", "train_size=40"],
            "train_size=40 is larger than the stored photographs, of 28 pixels",
        ),
        (["--model", "resnet18", "--set", "train_size=4"], "train_size=4 is invalid"),
        (["--model", "vlad"], "vlad"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_trained_are_refused(photo_folder, tmp_path, capsys, words, message):
    out = tmp_path / "run"
    code, _, error = run_cli(capsys, "train", photo_folder, *SIZES, *WORDS, *words, "--out", out)
    assert (code, message in error, out.exists()) == (2, True, False), error


def test_sizes_are_refused_for_images_of_one_size(tmp_path, capsys):
    for name in ("train_size", "test_resize", "stored_side"):
        words = ["--steps", "1", "--set", f"{name}=16", "--out", tmp_path / "run"]
        code, _, error = run_cli(capsys, "train", "digits", *words)
        assert code == 2
        assert f"{name} applies only to photographs: set {name}=0 for digits" in error


def test_a_recipe_for_one_size_chooses_network_size_and_random_weights(photo_folder):
    chosen = recipe("imagenet-torchvision2021")
    request = RunRequest(change_recipe=lambda _: chosen)
    resolved = resolve_run(request, resolve_dataset(str(photo_folder)), CPU_FP32)
    assert resolved.run.network == network("resnet50,stride=3x3", input=(3, 224, 224), classes=3)
    assert (resolved.dataset.input, resolved.dataset.resize) == ((3, 224, 224), 232)
    assert resolved.dataset.stored_side == 400
    assert resolved.weights_path is None
    assert "starts from random weights" in resolved.reasons["from"]
    assert "which the recipe imagenet-torchvision2021 is for" in resolved.reasons["size"]
    assert describe_phases(resolved.run.network, chosen, 100)["image_sizes"] == [
        {"step": 0, "height": 176, "width": 176}
    ]
    smaller, data = replace(request, size=64), resolve_dataset(str(photo_folder))
    with pytest.raises(UsageError, match="add --set train_size=50 --set test_resize=66"):
        resolve_run(smaller, data, CPU_FP32)
    change = lambda _: replace(chosen, train_size=50, test_resize=66)  # noqa: E731
    assert resolve_run(replace(smaller, change_recipe=change), data, CPU_FP32).dataset.resize == 66


def test_boxes_are_cropped_from_larger_photographs_than_those_of_evaluation(photo_folder):
    data = resolve_dataset(str(photo_folder))
    sides = {
        name: (sized.resize, sized.stored_side)
        for name in ("imagenet-he2015", "imagenet-90", "imagenet-torchvision2021", "photos")
        for sized in [resize_for_recipe(data, recipe(name))]
    }
    assert sides == {
        "imagenet-he2015": (256, 480),
        "imagenet-90": (256, 400),
        "imagenet-torchvision2021": (232, 400),
        "photos": (256, 0),
    }
    smaller = replace(recipe("photos"), stored_side=100)
    assert resize_for_recipe(data, smaller).stored_side == 256
