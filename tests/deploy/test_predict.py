import os
import threading
from functools import partial

import pytest
import torch
from PIL import Image

import residua
from residua.config.dataset import get_dataset
from residua.config.model import ImagePreprocessing, ModelConfig
from residua.data.images import Images
from residua.data.read import read_split as read_split
from residua.deploy.engine import build_engine
from residua.deploy.predict import Prediction, decode_ahead, decode_or_error, predict_files
from residua.net.model_folder import from_pretrained, read_model_config, save_pretrained
from residua.training.assess import predict_log_probabilities
from tests.third_party import randomize_weights
from tests.training.short_runs import CPU_FP32

DIGITS = get_dataset("digits")
SMALL_VIEW = ImagePreprocessing((3, 8, 8))


def write_grey_image(path, level=0, size=(8, 8)):
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def classify_by_level(pixels):
    """Says of which level an image is: 256 classes."""
    return torch.nn.functional.one_hot(pixels[:, 0, 0, 0].long(), 256).float()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    net = randomize_weights(
        residua.create_model("cifar-resnet8", num_classes=10, input=DIGITS.input)
    )
    config = ModelConfig(
        network=net.plan.network,
        classes=DIGITS.classes,
        mean=DIGITS.mean,
        std=DIGITS.std,
        dataset="digits",
    )
    path = tmp_path_factory.mktemp("predict") / "model"
    save_pretrained(net, config, path)
    return path


def test_prediction_and_evaluation_preprocess_an_image_bit_identically(model_folder, tmp_path):
    images, config = read_split(DIGITS, "test")[:50], read_model_config(model_folder)
    paths = [tmp_path / f"{i:02}.png" for i in range(50)]
    for path, pixels in zip(paths, images.pixels, strict=True):
        Image.fromarray(pixels[0].numpy()).save(path)
    net = from_pretrained(model_folder)
    evaluated = predict_log_probabilities(net, images, config, CPU_FP32).exp()
    seen = list(
        predict_files(
            paths,
            lambda pixels: predict_log_probabilities(
                net, Images(pixels, images.labels), config, CPU_FP32
            ).exp(),
            config,
            50,
        )
    )
    assert torch.equal(torch.stack([one.pixels for one in seen]), images.pixels)
    assert torch.equal(torch.stack([one.probabilities for one in seen]), evaluated)
    found = torch.stack(
        [
            one.probabilities
            for one in predict_files(paths, build_engine(net, config, "torch"), config, 16)
        ]
    )
    assert (found - evaluated).abs().max() < 0.02  # bf16, where the CPU has it


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predictions_keep_the_order_of_the_files_including_damaged_ones(tmp_path, batch_size):
    paths = [write_grey_image(tmp_path / f"{i}.png", i) for i in range(20)]
    paths[4].write_bytes(paths[4].read_bytes()[:45])
    paths[9].unlink()
    paths[10].write_text("text")
    paths[11].write_bytes(b"")
    found = list(predict_files([*paths, tmp_path], classify_by_level, SMALL_VIEW, batch_size))
    assert [one.path for one in found] == [*paths, tmp_path]
    assert {i for i, one in enumerate(found) if one.error} == {4, 9, 10, 11, 20}
    assert all(
        one.top_classes(1) == ([] if one.error else [(i, 1.0)]) for i, one in enumerate(found)
    )
    assert [found[i].error for i in (9, 10, 11, 20)] == [
        "cannot be read: No such file or directory",
        "is not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG 2000 or PPM image",
        "is empty: it contains no bytes",
        "is not a regular file",
    ]


def test_images_are_decoded_only_as_far_ahead_as_requested(tmp_path):
    paths = [write_grey_image(tmp_path / f"{i}.png", i) for i in range(12)]
    requested_paths = []

    def yield_recorded_paths():
        for path in paths:
            requested_paths.append(path)
            yield path

    images = decode_ahead(
        yield_recorded_paths(), partial(decode_or_error, preprocessing=SMALL_VIEW), max_waiting=5
    )
    next(images)
    assert len(requested_paths) == 5
    next(images)
    assert len(requested_paths) == 6
    before = threading.active_count()
    images.close()
    assert threading.active_count() < before  # the threads end with it


def test_the_engine_is_not_called_when_no_image_can_be_read(tmp_path):
    def fail_if_called(pixels):
        raise AssertionError

    (tmp_path / "a.png").write_text("text")
    assert [
        bool(one.error) for one in predict_files([tmp_path / "a.png"], fail_if_called, SMALL_VIEW)
    ] == [True]


def test_a_named_pipe_is_an_error_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    [one] = predict_files([tmp_path / "pipe.png"], classify_by_level, SMALL_VIEW)
    assert one.error == "is not a regular file"


def test_top_returns_at_most_the_existing_classes():
    one = Prediction(None, None, torch.tensor([0.2, 0.5, 0.3]))
    assert [k for k, _ in one.top_classes(2)] == [1, 2]
    assert [p for _, p in one.top_classes(9)] == pytest.approx([0.5, 0.3, 0.2])


def test_probabilities_that_are_not_finite_are_an_error_of_their_image_alone(tmp_path):
    paths = [write_grey_image(tmp_path / f"{i}.png", i) for i in range(3)]

    def classify(pixels):
        probabilities = classify_by_level(pixels)
        probabilities[pixels[:, 0, 0, 0] == 1] = float("nan")
        return probabilities

    found = list(predict_files(paths, classify, SMALL_VIEW))
    assert [one.top_classes(1) for one in found] == [[(0, 1.0)], [], [(2, 1.0)]]
    assert found[1].error == (
        "has probabilities that are not finite: the weights are damaged, or overflow"
    )
