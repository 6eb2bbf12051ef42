import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import residua
from residua.cli.main import main
from residua.data.convert_arrays import convert_image
from residua.errors import DataError, Interrupted, UsageError
from residua.net.model_folder import from_pretrained
from residua.net.own_module import make_module_classifier
from tests.same_weights import require_equal_weights

RNG = np.random.default_rng(5)


def make_arrays(count=90, classes=3, shape=(12, 12, 3)):
    """Images whose brightness tells their class, and their labels."""
    labels = np.arange(count) % classes
    noise = RNG.integers(0, 60, (count, *shape))
    levels = labels * (180 // classes)
    return (noise + levels.reshape(-1, *[1] * len(shape))).astype(np.uint8), labels


def train_quickly(data, model="cifar-resnet8", **keywords):
    keywords = {"steps": 3, "quiet": True, "precision": "fp32"} | keywords
    return residua.train(model, data, **keywords)


def test_the_same_run_from_python_and_from_the_command_line_ends_in_the_same_bits(tmp_path):
    options = ["--model", "cifar-resnet8", "--steps", "4", "--seed", "3", "--precision", "fp32"]
    assert main(["train", "digits", *options, "--out", str(tmp_path / "a")]) == 0
    result = train_quickly("digits", steps=4, seed=3, out=tmp_path / "b")
    stored = [json.loads((tmp_path / name / "run.json").read_text()) for name in "ab"]
    assert stored[0]["id"] == stored[1]["id"]
    require_equal_weights(from_pretrained(tmp_path / "a" / "last"), result.net)
    assert result.metrics["test_error"] == stored[0]["result"]["test_error"]
    assert result.folder == tmp_path / "b"


def test_without_a_folder_nothing_is_kept_and_the_bits_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = make_arrays()
    kept, lost = train_quickly(data, out=tmp_path / "run"), train_quickly(data)
    assert lost.folder is None
    assert lost.metrics["folder"] is None
    assert list((tmp_path / "temporary").iterdir()) == []
    require_equal_weights(kept.net, lost.net)


@pytest.mark.parametrize("layout", ["channels last", "channels first", "float", "tensor", "names"])
def test_arrays_in_every_layout_are_the_same_images(layout):
    images, labels = make_arrays()
    reference = train_quickly((images, labels))
    if layout == "channels first":
        images = images.transpose(0, 3, 1, 2)
    elif layout == "float":
        images = (images / 255).astype(np.float32)
    elif layout == "tensor":
        images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    elif layout == "names":
        labels = np.array(["a", "b", "c"])[labels]
    result = train_quickly((images, labels))
    require_equal_weights(reference.net, result.net)
    assert result.classifier.classes == tuple("abc" if layout == "names" else "012")


def test_held_out_images_are_those_that_are_given(tmp_path):
    images, labels = make_arrays(120)
    result = train_quickly(
        (images[:60], labels[:60]),
        test=(images[60:80], labels[60:80]),
        dev=(images[80:], labels[80:]),
    )
    assert result.metrics["splits"] == {"train": 60, "dev": 40, "test": 20}
    assert result.metrics["split_from"] == "given"
    by_split = train_quickly(
        {
            "train": (images[:60], labels[:60]),
            "test": (images[60:80], labels[60:80]),
            "validation": (images[80:], labels[80:]),
        }
    )
    require_equal_weights(result.net, by_split.net)


def test_copies_of_an_image_are_held_out_together():
    images, labels = make_arrays(40)
    result = train_quickly((np.repeat(images, 3, 0), np.repeat(labels, 3)))
    assert all(count % 3 == 0 for count in result.metrics["splits"].values())


class Pairs:
    """A map-style data set."""

    def __init__(self, change=lambda i, image, label: (image, label)):
        self.images, self.labels = make_arrays()
        self.change = change

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.change(i, self.images[i], int(self.labels[i]))


def raise_in_the_middle(i, image, label):
    if i == 41:
        raise RuntimeError("the disk is gone")
    return image, label


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            raise_in_the_middle,
            "item 41 of the data set cannot be read: RuntimeError: the disk is go",
        ),
        (
            lambda i, image, label: (image[: 12 - (i == 7)], label),
            r"item 7 of the data set has the shape \(3, 11, 12\), but item 0 has \(3, 12, 12\): co",
        ),
        (
            lambda i, image, label: (RNG.integers(0, 255, image.shape, dtype=np.uint8), label),
            "item 0 of the data set changes when it is read again: remove random transf",
        ),
        (
            lambda i, image, label: image,
            "item 0 of the data set is not a pair of an image and a label",
        ),
        (
            lambda i, image, label: (torch.randn(3, 12, 12), label),
            "item 0 of the data set: these floating-point images have values from .* unnorm",
        ),
    ],
)
def test_a_data_set_that_cannot_be_read_is_refused_with_the_item(change, sentence):
    with pytest.raises(DataError, match=sentence):
        train_quickly(Pairs(change))


def test_a_map_style_data_set_is_the_same_as_its_arrays():
    pairs = Pairs()
    require_equal_weights(train_quickly(pairs).net, train_quickly((pairs.images, pairs.labels)).net)


IMAGES, LABELS = make_arrays()


@pytest.mark.parametrize(
    ("images", "labels", "keywords", "sentence"),
    [
        (
            IMAGES.astype(np.int64),
            LABELS,
            {},
            "images have the dtype int64: give uint8, or floating",
        ),
        (IMAGES * 1.0, LABELS, {}, r"have values from 0 to .*, outside of \[0, 1\]: give unnorm"),
        (
            IMAGES / np.nan,
            LABELS,
            {},
            "have 38,880 values that are not finite .NaN or infinite.: give",
        ),
        (IMAGES[:5], LABELS[:5], {}, "5 images of 3 classes are too few to split .* give 10 or"),
        (IMAGES[0], LABELS, {}, r"labels have the shape \(90,\): give \(12,\)"),
        (IMAGES[:, :, :3], LABELS, {}, None),
        (IMAGES[..., :2], LABELS, {}, "have neither 1 channel nor 3"),
        (IMAGES.transpose(0, 3, 1, 2)[..., :3], LABELS, {}, "can be read as .n, channels, height"),
        (
            IMAGES[:, 0, 0, 0],
            LABELS,
            {},
            r"images have the shape \(90,\): give \(n, height, width\)",
        ),
        (IMAGES[:0], LABELS[:0], {}, r"images have the shape \(0, 12, 12, 3\)"),
        (IMAGES, LABELS * 2, {}, "class 1 has no training images: add some, or number the labels"),
        (IMAGES, LABELS - 1, {}, "labels are from -1 to 1: give whole numbers from 0"),
        (IMAGES, LABELS / 2, {}, "labels have the dtype float64: give whole numbers from 0, or"),
        (
            IMAGES,
            np.eye(3)[LABELS],
            {},
            r"labels have the shape \(90, 3\): give \(90,\), one class",
        ),
        (IMAGES, LABELS[1:], {}, r"labels have the shape \(89,\): give \(90,\)"),
        (IMAGES, LABELS * 0, {}, "there is only one class, 0: give images of at least two"),
        (
            IMAGES,
            LABELS,
            {"classes": ["a", "b"]},
            "labels are from 0 to 2: give whole numbers from",
        ),
        (IMAGES, LABELS, {"classes": list("abcd")}, "class d has no training images"),
        (IMAGES * 0, LABELS, {}, "a channel has the same value in all training images"),
        (IMAGES, LABELS, {"test": (IMAGES[:, :9], LABELS)}, "convert all images to one shape"),
        (IMAGES, LABELS, {"test": (IMAGES * 1.0, LABELS)}, "in the split test, these floating"),
        (IMAGES, LABELS, {"size": 32}, "^size applies only to photographs: leave it out"),
        (IMAGES, LABELS, {"freeze": True}, "^freeze needs pretrained weights: add from_"),
        (IMAGES, LABELS, {"epochs": 1}, "steps and epochs cannot be combined"),
        (IMAGES, LABELS, {"resume": True}, "^resume=True needs the folder of the run: add out"),
        (IMAGES, LABELS, {"recipe": "fats"}, "did you mean 'fast'"),
        (IMAGES, LABELS, {"model": "cifar-resnet9"}, "cifar-resnet networks cannot have 9 layers"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_one_sentence(images, labels, keywords, sentence):
    model = keywords.pop("model", "cifar-resnet8")
    if sentence is None:
        assert train_quickly((images, labels), model, **keywords).metrics["steps"] == 3
        return
    with pytest.raises((DataError, UsageError), match=sentence) as caught:
        train_quickly((images, labels), model, **keywords)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("data", [3, (IMAGES,), {}, {"cats": (IMAGES, LABELS)}, [1, 2, 3]])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(DataError):
        train_quickly(data)


def make_module(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, classes)
    )


def test_a_module_of_ones_own_is_trained_stored_and_loaded(tmp_path):
    result = train_quickly((IMAGES, LABELS), make_module(), steps=40, out=tmp_path / "run")
    assert result.metrics["test_error"] < 0.2
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["run"]["network"]
    assert stored["name"] == "torch.nn.modules.container.Sequential"
    assert len(stored["state"]) == 16
    classifier = residua.load(tmp_path / "run", module=make_module(seed=1))
    require_equal_weights(classifier.net, result.net)
    assert classifier.evaluate((IMAGES, LABELS)).error_rate < 0.2
    with pytest.raises(UsageError, match=r"a module of your own.*residua\.load\(FOLDER, module="):
        residua.load(tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds the weights of .*Sequential, not of .*Linear"):
        residua.load(tmp_path / "run", module=nn.Linear(1, 1))


def test_a_network_that_is_given_keeps_its_stem():
    module = residua.create_model("cifar-record8,width=0.25", input=(3, 32, 32), num_classes=3)
    before = module.stem[0].weight.clone()
    images = np.repeat(np.repeat(IMAGES, 3, 1), 3, 2)[:, :32, :32]
    train_quickly((images, LABELS), module, steps=1)
    assert torch.equal(module.stem[0].weight, before)


def test_a_module_is_trained_as_a_loop_of_ones_own_would(tmp_path):
    """The steps equal those of plain PyTorch on the same batches."""
    module, twin = make_module(), make_module()
    recipe = residua.Recipe(name="plain", batch_size=16, steps=5, augment=NO_AUGMENTATION)
    train_quickly((IMAGES, LABELS), module, recipe=recipe, steps=None, seed=2)
    batches = make_batches_of((IMAGES, LABELS), recipe, seed=2)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for step in range(5):
        images, labels = batches.make_batch(step)
        optimiser.param_groups[0]["lr"] = recipe.lr_at_step(step, 5)
        optimiser.zero_grad()
        nn.functional.cross_entropy(twin(images), labels).backward()
        optimiser.step()
    for name, value in twin.state_dict().items():
        assert torch.allclose(value, module.state_dict()[name], rtol=1e-4, atol=1e-6), name


NO_AUGMENTATION = residua.recipe("he2015").augment.__class__(pad=0, flip=False)


def make_batches_of(data, recipe, seed):
    from residua.data.batches import make_training_batches
    from residua.data.user_data import resolve_user_data

    dataset = resolve_user_data(data)
    return make_training_batches(
        dataset.images["train"], recipe, dataset, dataset.mean, dataset.std, seed, None
    )


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            make_module(classes=4),
            r"maps 2 images of shape \(3, 12, 12\) to an output of shape \(2, 4\), but",
        ),
        (nn.Flatten(), "torch.nn.modules.flatten.Flatten has no trainable parameters"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 3)),
            "cannot process images of shape .3, 12, 12.: mat1",
        ),
    ],
)
def test_a_module_that_does_not_fit_the_data_is_refused(module, sentence):
    with pytest.raises(UsageError, match=sentence):
        train_quickly((IMAGES, LABELS), module)


def test_a_callback_gets_each_step_and_the_rows_of_metrics():
    reports = []
    train_quickly((IMAGES, LABELS), steps=6, on_progress=reports.append)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert {report.total_steps for report in reports} == {6}
    assert reports[-1].metrics["step"] == 6


def test_an_error_of_a_callback_is_raised_and_the_run_goes_on_from_there(tmp_path):
    def fail_at_step_4(report):
        if report.step == 4:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        train_quickly((IMAGES, LABELS), steps=8, on_progress=fail_at_step_4, out=tmp_path / "run")
    assert "resume=True" in "".join(caught.value.__notes__)
    steps = []
    resumed = train_quickly(
        (IMAGES, LABELS),
        steps=8,
        out=tmp_path / "run",
        resume=True,
        on_progress=lambda report: steps.append(report.step),
    )
    assert steps == [5, 6, 7, 8]
    require_equal_weights(resumed.net, train_quickly((IMAGES, LABELS), steps=8).net)


def test_ctrl_c_stops_the_run_and_says_how_to_go_on(tmp_path):
    import os
    import signal

    def interrupt(report):
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"stopped at step 2 of 5: to go on, call it again with"):
        train_quickly((IMAGES, LABELS), steps=5, on_progress=interrupt, out=tmp_path / "run")
    with pytest.raises(Interrupted, match="nothing was kept, since out is None"):
        train_quickly((IMAGES, LABELS), steps=5, on_progress=interrupt)


def darken_at_random(image, rng):
    return (image * rng.uniform(0.5, 1)).astype(np.uint8)


def test_a_transform_draws_from_seed_epoch_and_sample_alone(tmp_path):
    full = train_quickly((IMAGES, LABELS), steps=8, transform=darken_at_random)
    plain = train_quickly((IMAGES, LABELS), steps=8)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(full.net.parameters(), plain.net.parameters(), strict=True)
    )

    def stop(report):
        if report.step == 3:
            raise StopIteration

    arguments = {"steps": 8, "out": tmp_path / "run"}
    with pytest.raises(StopIteration):
        train_quickly((IMAGES, LABELS), transform=darken_at_random, on_progress=stop, **arguments)
    with pytest.raises(UsageError, match="with the transform .*darken_at_random, not no transform"):
        train_quickly((IMAGES, LABELS), resume=True, **arguments)
    resumed = train_quickly((IMAGES, LABELS), transform=darken_at_random, resume=True, **arguments)
    require_equal_weights(resumed.net, full.net)


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        (lambda image, rng: image[:5], r"an image of shape \(5, 12, 3\) and dtype uint8"),
        (
            lambda image, rng: image / 255,
            r"dtype float64: it must return shape \(12, 12, 3\) and dtype uint8",
        ),
        (lambda image, rng: 1 / 0, "the transform failed on a training image: ZeroDivisionError"),
    ],
)
def test_a_transform_that_fails_is_reported(transform, sentence):
    with pytest.raises(DataError, match=sentence):
        train_quickly((IMAGES, LABELS), transform=transform)


def test_a_network_is_taken_as_it_is_given_with_the_classes_of_the_data():
    net = residua.network("cifar-preresnet11", input=(3, 12, 12), block="bottleneck", classes=10)
    result = train_quickly((IMAGES, LABELS), net)
    assert result.config.network.classes == 3
    with pytest.raises(
        UsageError, match=r"takes images of shape \(3, 32, 32\), but those of arrays-"
    ):
        train_quickly((IMAGES, LABELS), residua.network("cifar-resnet8"))


def test_the_choices_and_the_data_are_said_unless_quiet(capsys):
    train_quickly((IMAGES, LABELS), None, quiet=False)
    text = capsys.readouterr().err
    assert "network cifar-resnet20: it is made for small images" in text
    assert "(override: model)" in text
    assert "splits    train" in text
    train_quickly((IMAGES, LABELS), None)
    assert capsys.readouterr().err == ""


def test_pil_images_of_any_mode_are_read_as_photographs_are():
    """Deep grey is scaled rather than clipped, and alpha is blended with white."""
    deep = Image.fromarray(np.array([[0, 65535], [32768, 256]], np.uint16))
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert convert_image(deep).tolist() == [[[0, 255], [128, 1]]]
    assert convert_image(clear).tolist() == [[[255, 255], [255, 255]]] * 3
    assert convert_image(Image.new("L", (3, 2), 7)).tolist() == [[[7] * 3] * 2]


@pytest.mark.parametrize("labels", [[[1], [2, 3]] * 45, [None] * 90])
def test_labels_that_form_no_array_are_refused(labels):
    with pytest.raises(
        DataError, match="labels (are an array of objects|cannot be converted to an array)"
    ):
        train_quickly((IMAGES, labels))


def test_a_recipe_that_freezes_needs_pretrained_weights_however_it_was_given():
    recipe = replace(residua.recipe("small"), freeze=True)
    with pytest.raises(UsageError, match="^freeze needs pretrained weights: add from_"):
        train_quickly((IMAGES, LABELS), recipe=recipe)


def test_a_module_keeps_the_modes_of_its_parts_when_it_is_described():
    module = make_module()
    module[1].eval()
    make_module_classifier(module, (3, 12, 12), 3)
    assert [part.training for part in module] == [True, False, True, True, True]
