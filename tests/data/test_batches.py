"""Batches compared with numpy code for one sample at a time, and as a function of the step."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from residua.config.augmentation import Augmentation
from residua.config.dataset import get_dataset
from residua.config.recipe import Recipe
from residua.data.batches import TrainingBatches, make_training_batches
from residua.data.counter_rng import RandomStream, random_bits_from_keys, random_permutation
from residua.data.images import Images
from residua.errors import UsageError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SEED = 7


def make_indexed_images(count):
    """Random images (count, 3, 6, 6), each labelled with its own index."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3, 6, 6), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count))


DEFAULT_AUGMENTATION = Augmentation(pad=2)


def make_batches(count=20, batch_size=6, augment=DEFAULT_AUGMENTATION, seed=SEED):
    return TrainingBatches(make_indexed_images(count), batch_size, augment, MEAN, STD, seed)


def compute_reference_sample(images, augment, seed, epoch, index):
    """One training sample (3, 6, 6) in float64, computed by numpy."""
    image = images.pixels[index].numpy()
    if margin := augment.pad:
        levels = [round(255 * m) for m in MEAN]
        if augment.pad_mode == "reflect":
            image = np.pad(image, ((0, 0), (margin,) * 2, (margin,) * 2), mode="reflect")
        else:
            image = np.stack(
                [np.pad(c, margin, constant_values=v) for c, v in zip(image, levels, strict=True)]
            )
        number, places = (
            int(random_bits_from_keys(seed, RandomStream.CROP, epoch, index)),
            2 * margin + 1,
        )
        row, column = number % places, number // places % places
        image = image[:, row : row + 6, column : column + 6]
    keys = (index,) if augment.alternate_flip else (epoch, index)
    is_odd = int(random_bits_from_keys(seed, RandomStream.FLIP, *keys)) % 2 == 1
    if augment.flip and is_odd != (augment.alternate_flip and epoch % 2 == 1):
        image = image[:, :, ::-1]
    if augment.cut:
        number = int(random_bits_from_keys(seed, RandomStream.CUTOUT, epoch, index))
        top, crop_column = number % 6 - augment.cut // 2, number // 6 % 6 - augment.cut // 2
        for channel, mean in zip(image := image.copy(), MEAN, strict=True):
            channel[
                max(top, 0) : max(top + augment.cut, 0),
                max(crop_column, 0) : max(crop_column + augment.cut, 0),
            ] = round(255 * mean)
    return (image / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


@pytest.mark.parametrize(
    "augment",
    [
        *(
            Augmentation(pad=p, flip=f, cut=c)
            for p in (0, 2)
            for f in (False, True)
            for c in (0, 3)
        ),
        Augmentation(pad=2, pad_mode="reflect", alternate_flip=True),
        Augmentation(pad=5, pad_mode="reflect", flip=False),
    ],
    ids=str,
)
def test_a_batch_equals_its_samples_computed_one_by_one(augment):
    stream = make_batches(augment=augment)
    order = [
        (epoch, index)
        for epoch in range(4)
        for index in random_permutation(20, SEED, RandomStream.ORDER, epoch).tolist()
    ]
    for step in range(10):
        x, labels = stream.make_batch(step)
        expected = order[6 * step : 6 * step + 6]
        assert labels.tolist() == [index for _, index in expected]
        samples = [
            compute_reference_sample(stream.images, augment, SEED, *which) for which in expected
        ]
        np.testing.assert_allclose(x.numpy(), np.stack(samples), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.data())
def test_each_epoch_holds_each_sample_once_and_no_batch_is_partial(count, data):
    batch_size = data.draw(st.integers(1, count))
    stream = make_batches(count, batch_size, Augmentation(pad=0, flip=False))
    labels = [stream.make_batch(step)[1] for step in range(-(-3 * count // batch_size))]
    assert {len(part) for part in labels} == {batch_size}
    for epoch in torch.cat(labels)[: 3 * count].split(count):
        assert epoch.sort().values.tolist() == list(range(count))


def test_a_batch_across_an_epoch_boundary_continues_with_the_next_permutation():
    _, labels = make_batches(count=20, batch_size=6).make_batch(3)
    ends, begins = (
        random_permutation(20, SEED, RandomStream.ORDER, 0),
        random_permutation(20, SEED, RandomStream.ORDER, 1),
    )
    assert labels.tolist() == [*ends[18:].tolist(), *begins[:4].tolist()]


def test_a_batch_may_be_the_whole_epoch():
    stream = make_batches(count=20, batch_size=20)
    assert [sorted(stream.make_batch(step)[1].tolist()) for step in range(3)] == [
        list(range(20))
    ] * 3


def test_a_batch_is_bit_identical_in_any_order_of_calls():
    steps = list(range(30))
    forward = make_batches()
    expected = {step: forward.make_batch(step) for step in steps}
    again = make_batches()
    for step in (*reversed(steps), 17, 0, 29, 17):
        torch.manual_seed(step)
        for here, there in zip(again.make_batch(step), expected[step], strict=True):
            assert torch.equal(here, there)


@pytest.mark.parametrize("shares", [2, 3, 4, 6])
def test_the_per_rank_shares_of_a_batch_concatenate_to_the_batch(shares):
    """Concatenated, the batches of n processes are those of one, across epoch ends too."""
    images, augment = make_indexed_images(20), Augmentation(pad=2)
    whole = make_batches()
    streams = [
        TrainingBatches(
            images, 6, augment, MEAN, STD, SEED, range(6 * i // shares, 6 * (i + 1) // shares)
        )
        for i in range(shares)
    ]
    for step in range(10):
        x, labels = zip(*[stream.make_batch(step) for stream in streams], strict=True)
        assert {len(part) for part in labels} <= {6 // shares, -(-6 // shares)}
        assert torch.equal(torch.cat(labels), whole.make_batch(step)[1])
        assert torch.equal(torch.cat(x), whole.make_batch(step)[0])


def test_a_samples_augmentation_does_not_depend_on_the_batch_size():
    def first_epochs(batch_size):
        stream = make_batches(count=24, batch_size=batch_size)
        parts = [stream.make_batch(step) for step in range(48 // batch_size)]
        return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])

    (x, labels), *others = [first_epochs(batch_size) for batch_size in (24, 1, 4, 16)]
    for other, others_labels in others:
        assert torch.equal(labels, others_labels)
        assert torch.equal(x, other)


def test_a_samples_augmentation_does_not_depend_on_its_neighbours():
    stream = make_batches()

    def augment(*indices):
        samples = torch.tensor(indices)
        return stream.changes.apply(stream.crop_samples(5, samples), 5, samples)

    assert torch.equal(torch.cat([augment(index) for index in (3, 11, 4)]), augment(3, 11, 4))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    def epoch_of(seed, epoch):
        x, labels = make_batches(count=20, batch_size=20, seed=seed).make_batch(epoch)
        return labels, x[labels.argsort()]

    epochs = [epoch_of(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for (labels, x), (other, y) in pairwise(epochs):
        assert not torch.equal(labels, other)
        assert int((x != y).flatten(1).any(1).sum()) > 10  # of 20 images


def test_batching_does_not_modify_the_images():
    images = make_indexed_images(20)
    before = images.pixels.clone()
    TrainingBatches(images, 6, Augmentation(pad=0), MEAN, STD, SEED).make_batch(0)[0].zero_()
    assert torch.equal(images.pixels, before)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(
        UsageError,
        match=r"^batch size 21 exceeds the 20 training images: choose at most 20$",
    ):
        make_batches(count=20, batch_size=21)


def test_the_batches_of_a_seed_never_change():
    """A checkpoint of any earlier version resumes with the batches that it would have had."""
    assert random_bits_from_keys(0, RandomStream.CROP, 0, torch.arange(3)).tolist() == [
        7530090308580795546,
        8850622869701638261,
        451237916458612512,
    ]
    assert random_permutation(10, 0).tolist() == [5, 7, 1, 4, 2, 8, 0, 6, 3, 9]
    assert make_batches(count=20, batch_size=6).make_batch(123)[1].tolist() == [8, 9, 13, 19, 11, 3]


def test_smaller_images_are_the_augmented_ones_shrunk_as_pillow_does():
    """In parts of the run, and computed as a function of the step alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 24, 16), dtype=np.uint8)
    images = Images(torch.from_numpy(pixels), torch.arange(12))
    plain = Recipe(name="x", batch_size=4, steps=9, augment=Augmentation(pad=1))
    data = make_photo_like_dataset()
    full, shrunk = [
        make_training_batches(images, recipe, data, (0.0,) * 3, (1 / 255,) * 3, SEED, None)
        for recipe in (plain, replace(plain, sizes=(0.5, 0.75, 1.0)))
    ]
    sides = [(12, 8)] * 3 + [(18, 12)] * 3 + [(24, 16)] * 3
    for step in (5, 0, 8, 2, 3):
        (whole, labels), (small, same_labels) = full.make_batch(step), shrunk.make_batch(step)
        assert small.shape[2:] == sides[step]
        assert torch.equal(labels, same_labels)
        height, width = sides[step]
        for image, found in zip(whole, small, strict=True):
            theirs = Image.fromarray(image.permute(1, 2, 0).to(torch.uint8).numpy())
            theirs = theirs.resize((width, height), Image.Resampling.BILINEAR)
            difference = found.permute(1, 2, 0).numpy() - np.asarray(theirs, dtype=np.float32)
            assert abs(difference).max() <= 1.01  # Pillow rounds twice
    assert torch.equal(full.make_batch(7)[0], shrunk.make_batch(7)[0])


def test_two_ranks_make_the_smaller_images_of_one_with_the_same_random_changes():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 24, 16), dtype=np.uint8)
    images, data = Images(torch.from_numpy(pixels), torch.arange(12)), make_photo_like_dataset()
    augment = Augmentation(pad=0, area=0.5, randaugment=2, mixup=0.5)
    recipe = Recipe(name="x", batch_size=4, steps=6, augment=augment, sizes=(0.5, 0.75))
    whole, *shares = [
        make_training_batches(images, recipe, data, MEAN, STD, SEED, share)
        for share in (None, range(2), range(2, 4))
    ]
    for step in (0, 4):
        parts = [batches.make_batch(step) for batches in shares]
        for one, two in zip(whole.make_batch(step), zip(*parts, strict=True), strict=True):
            assert torch.equal(one, torch.cat(two))


def make_photo_like_dataset():
    return replace(get_dataset("cifar10"), input=(3, 24, 16))
