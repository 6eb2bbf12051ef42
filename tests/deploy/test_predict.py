import os
import threading

import pytest
import torch
from PIL import Image

import residua
from residua.data.read import Images
from residua.data.read import read as read_split
from residua.deploy.engine import engine
from residua.deploy.predict import Prediction, images_in, predictions, read
from residua.net.folder import from_pretrained, read_config, save_pretrained
from residua.spec.dataset import dataset
from residua.spec.model import ModelConfig, View
from residua.train.assess import scores
from tests.peers import randomised
from tests.train.runs import CPU

DIGITS = dataset("digits")
SMALL = View((3, 8, 8))


def picture(path, level=0, size=(8, 8)):
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def levels(pixels):
    """Says of which level an image is: 256 classes."""
    return torch.nn.functional.one_hot(pixels[:, 0, 0, 0].long(), 256).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    net = randomised(residua.create_model("cifar-resnet8", num_classes=10, input=DIGITS.input))
    config = ModelConfig(network=net.plan.network, classes=DIGITS.classes, mean=DIGITS.mean, std=DIGITS.std, dataset="digits")
    path = tmp_path_factory.mktemp("predict") / "model"
    save_pretrained(net, config, path)
    return path


def test_prediction_sees_an_image_file_as_evaluation_sees_the_image_to_the_bit(folder, tmp_path):
    images, config = read_split(DIGITS, "test")[:50], read_config(folder)
    paths = [tmp_path / f"{i:02}.png" for i in range(50)]
    for path, pixels in zip(paths, images.pixels, strict=True):
        Image.fromarray(pixels[0].numpy()).save(path)
    net = from_pretrained(folder)
    evaluated = scores(net, images, config, CPU).exp()
    seen = list(predictions(paths, lambda pixels: scores(net, Images(pixels, images.labels), config, CPU).exp(), config, 50))
    assert torch.equal(torch.stack([one.pixels for one in seen]), images.pixels)
    assert torch.equal(torch.stack([one.probabilities for one in seen]), evaluated)
    found = torch.stack([one.probabilities for one in predictions(paths, engine(folder, "torch"), config, 16)])
    assert (found - evaluated).abs().max() < 0.02  # bf16, where the CPU has it


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_files_keep_their_order_and_damaged_ones_their_place(tmp_path, batch_size):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(20)]
    paths[4].write_bytes(paths[4].read_bytes()[:45])
    paths[9].unlink()
    paths[10].write_text("text")
    paths[11].write_bytes(b"")
    found = list(predictions([*paths, tmp_path], levels, SMALL, batch_size))
    assert [one.path for one in found] == [*paths, tmp_path]
    assert {i for i, one in enumerate(found) if one.error} == {4, 9, 10, 11, 20}
    assert all(one.top(1) == ([] if one.error else [(i, 1.0)]) for i, one in enumerate(found))
    assert [found[i].error for i in (9, 10, 11, 20)] == [
        "cannot be read: No such file or directory", "is no JPEG, PNG, WebP, BMP, TIFF or GIF image", "is empty: it holds no bytes",
        "is no file",
    ]  # fmt: skip


def test_no_more_images_are_decoded_than_may_wait(tmp_path):
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(12)]
    asked = []

    def watched():
        for path in paths:
            asked.append(path)
            yield path

    images = read(watched(), SMALL, ahead=5)
    next(images)
    assert len(asked) == 5
    next(images)
    assert len(asked) == 6
    before = threading.active_count()
    images.close()
    assert threading.active_count() < before  # the threads end with it


def test_nothing_is_classified_where_nothing_can_be_read(tmp_path):
    def never(pixels):
        raise AssertionError

    (tmp_path / "a.png").write_text("text")
    assert [bool(one.error) for one in predictions([tmp_path / "a.png"], never, SMALL)] == [True]


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    [one] = predictions([tmp_path / "pipe.png"], levels, SMALL)
    assert one.error == "is no file"


def test_images_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    for name in ("b/10.PNG", "b/9.jpeg", "a/x.webp", "c.tiff", ".hidden.png", "b/.cache/y.png", "notes.txt", "日本.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in images_in(tmp_path)] == [
        "c.tiff", "日本.gif", "a/x.webp", "b/10.PNG", "b/9.jpeg",
    ]  # fmt: skip


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    picture(outside / "secret.png"), picture(inside / "real.png")
    (inside / "out.png").symlink_to(outside / "secret.png")
    (inside / "same.png").symlink_to(inside / "real.png")
    (inside / "up").symlink_to(tmp_path)
    assert [path.name for path in images_in(inside)] == ["real.png", "same.png"]


def test_top_names_as_many_classes_as_there_are():
    one = Prediction(None, None, torch.tensor([0.2, 0.5, 0.3]))
    assert [k for k, _ in one.top(2)] == [1, 2]
    assert [p for _, p in one.top(9)] == pytest.approx([0.5, 0.3, 0.2])
