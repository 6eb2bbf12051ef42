"""Batches of photographs that are decoded when needed: as a function of the step, by threads."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from residua.config.augmentation import Augmentation
from residua.data.augment import draw_crop_box, random_resized_crop
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import RandomStream, random_bits_from_keys, random_permutation
from residua.data.images import Images
from residua.data.streamed_images import StreamedImages
from residua.errors import DataError
from tests.data.photos_in_memory import make_photos
from tests.third_party import torchvision

MEAN, STD, SEED = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 7
SIZE = 16, 16
CROPS = Augmentation(pad=0, area=0.3, colour=0.3, cut=3)
AUGMENTATIONS = {
    "crops of any area": CROPS,
    "mixed crops": Augmentation(pad=0, area=0.3, mixup=0.4, cutmix=0.4),
    "padded crops": Augmentation(pad=3, area=0.3),
    "centers": Augmentation(pad=0),
    "padded centers": Augmentation(pad=3),
}


@pytest.fixture(autouse=True)
def threads_end():
    """No test leaves threads behind."""
    yield
    deadline = time.monotonic() + 5
    while decoding := [t for t in threading.enumerate() if t.name.startswith("decoding")]:
        assert time.monotonic() < deadline, decoding
        time.sleep(0.01)


@pytest.fixture(params=[1, 4])
def threads(request, monkeypatch):
    set_threads(monkeypatch, request.param)


def set_threads(monkeypatch, count):
    for module in ("streamed_images", "crop_prefetcher"):
        monkeypatch.setattr(f"residua.data.{module}.count_decoding_threads", lambda: count)


def stream_photos(photos, image_size=(40, 40)):
    return StreamedImages(photos, image_size, photos.labels)


def make_batches(photos, augment=CROPS, batch_size=8, **options):
    options = {"crop_size": SIZE, "num_classes": len(photos)} | options
    return TrainingBatches(stream_photos(photos), batch_size, augment, MEAN, STD, SEED, **options)


def make_and_close(batches, steps):
    made = [batches.make_batch(step) for step in steps]
    batches.close()
    return made


def assert_equal_batches(some, others):
    for (x, y), (other_x, other_y) in zip(some, others, strict=True):
        assert torch.equal(y, other_y)
        assert torch.equal(x, other_x)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_batch_is_the_same_in_any_order_of_steps_with_any_number_of_threads(name, monkeypatch):
    photos, steps = make_photos(20), range(6)
    expected = make_and_close(make_batches(photos, AUGMENTATIONS[name]), steps)
    assert len({x.sum().item() for x, _ in expected}) == len(steps)
    for count in (1, 4):
        set_threads(monkeypatch, count)
        for order in ([3, 4, 5], [5, 0, 3, 3, 1]):  # after a resume, and anyhow
            made = make_and_close(make_batches(photos, AUGMENTATIONS[name]), order)
            assert_equal_batches(made, [expected[step] for step in order])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_shares_of_the_ranks_are_the_batch_and_each_rank_decodes_only_its_own(name, ranks):
    augment, photos = AUGMENTATIONS[name], make_photos(20)
    whole = make_and_close(make_batches(photos, augment, end_step=3), range(3))
    reads_of_one = sorted(photos.read)
    shares, reads = [], []
    for rank in range(ranks):
        own = make_photos(20)
        share = range(8 * rank // ranks, 8 * (rank + 1) // ranks)
        batches = make_batches(own, augment, share=share, end_step=3)
        shares.append(make_and_close(batches, range(3)))
        reads += own.read
        assert len(own.read) == len(reads_of_one) / ranks
    assert sorted(reads) == reads_of_one
    joined = [
        [torch.cat(parts) for parts in zip(*batch, strict=True)]
        for batch in zip(*shares, strict=True)
    ]
    assert_equal_batches(whole, joined)


def test_each_epoch_holds_each_photograph_once_and_classes_are_balanced_if_wanted():
    batches = make_batches(make_photos(20), batch_size=6)
    labels = torch.cat([y for _, y in make_and_close(batches, range(10))])
    for epoch in range(3):
        expected = random_permutation(20, SEED, RandomStream.ORDER, epoch)
        assert torch.equal(labels[20 * epoch : 20 * (epoch + 1)], expected)
    photos = make_photos(20)
    photos.labels = (torch.arange(20) >= 15).long()
    balanced = make_batches(photos, batch_size=20, balance_classes=True, num_classes=2)
    (_, labels) = make_and_close(balanced, [0])[0]
    assert labels.bincount().tolist() == [10, 10]


@pytest.mark.parametrize("name", ["padded centers", "centers"])
def test_centers_equal_the_batches_of_the_squares_in_memory(name):
    photos = make_photos(20)
    squares = stream_photos(photos)[:]
    in_memory = TrainingBatches(
        Images(squares.pixels, squares.labels),
        8,
        AUGMENTATIONS[name],
        MEAN,
        STD,
        SEED,
        crop_size=SIZE,
    )
    streamed = make_and_close(make_batches(photos, AUGMENTATIONS[name]), range(4))
    assert_equal_batches(streamed, [in_memory.make_batch(step) for step in range(4)])


def test_boxes_are_those_of_the_formula_for_images_in_memory():
    """A picture of its own coordinates shows the box: crops of both ways have the same levels."""
    side, count = 64, 50
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8)
    picture = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])
    pixels = torch.cat([picture, picture[:1]])[None].expand(count, -1, -1, -1)
    bits = random_bits_from_keys(3, torch.arange(count)[:, None], torch.arange(4))
    expected = random_resized_crop(pixels, (64, 64), 0.2, 1.5, bits)
    photos = make_photos(1)
    photos.pictures = [Image.fromarray(pixels[0].permute(1, 2, 0).numpy())]
    for i in range(count):
        box = draw_crop_box((side, side), 0.2, 1.5, bits[i].tolist())
        crop = photos.read_crop(0, box, (64, 64))
        assert (crop - expected[i]).abs().max() <= 0.51, i


def test_boxes_reach_both_ends_of_a_long_photograph_and_never_beyond():
    bits = random_bits_from_keys(3, torch.arange(400)[:, None], torch.arange(4)).tolist()
    for area, stretch in ((0.08, 4 / 3), (0.5, 8.0)):
        boxes = np.array([draw_crop_box((30, 90), area, stretch, numbers) for numbers in bits])
        left, top, right, bottom = boxes.T
        assert left.min() >= 0
        assert top.min() >= 0
        assert right.max() <= 90
        assert bottom.max() <= 30
        assert left.min() < 5
        assert right.max() > 85
        shares = (right - left) * (bottom - top) / (30 * 90)
        uncut = (right - left < 90) & (bottom - top < 30)
        assert shares[uncut].min() >= area - 1e-9
        assert (shares <= 1).all()


def test_crops_of_squares_are_those_of_images_in_memory_within_rounding():
    photos = make_photos(20, side=40)
    squares = stream_photos(photos)[:]
    augment = Augmentation(pad=0, area=0.3)
    in_memory = TrainingBatches(squares, 8, augment, MEAN, STD, SEED, crop_size=(40, 40))
    streamed = make_batches(photos, augment, crop_size=(40, 40))
    one_level = 1.01 / 255 / min(STD)
    for step, (x, y) in enumerate(make_and_close(streamed, range(3))):
        expected, labels = in_memory.make_batch(step)
        assert torch.equal(y, labels)
        assert (x - expected).abs().max() <= one_level


def test_smaller_crops_are_antialiased_as_those_of_torchvision():
    photos, augment = make_photos(6, sizes=((80, 120),)), Augmentation(pad=0, area=0.5, flip=False)
    (x, labels) = make_and_close(make_batches(photos, augment, batch_size=6), [0])[0]
    levels = (x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    for crop, index in zip(levels, labels.tolist(), strict=True):
        bits = [int(random_bits_from_keys(SEED, RandomStream.CROP, 0, index, i)) for i in range(4)]
        left, top, right, bottom = draw_crop_box((80, 120), 0.5, 4 / 3, bits)
        whole = (round(left), round(top), round(right), round(bottom))
        cut = photos.pictures[index].crop(whole)
        resize = torchvision.transforms.functional.resize
        expected = torch.from_numpy(np.array(resize(cut, list(SIZE)))).permute(2, 0, 1)
        assert (crop - expected).abs().mean() < 4, index  # the box is at most half a pixel off


def test_a_users_transform_gets_whole_photographs_with_bits_of_their_own(monkeypatch):
    set_threads(monkeypatch, 4)
    shapes = set()

    def draw_noise(image, rng):
        shapes.add(image.shape)
        return rng.integers(0, 256, image.shape, dtype=np.uint8)

    photos = make_photos(20)
    some = make_and_close(make_batches(photos, transform=draw_noise), range(3))
    assert shapes == {(40, 64, 3), (64, 40, 3), (48, 48, 3)}
    assert_equal_batches(make_and_close(make_batches(photos, transform=draw_noise), [2]), some[2:])
    shapes.clear()
    make_and_close(make_batches(photos, Augmentation(pad=0), transform=draw_noise), [0])
    assert shapes == {(40, 40, 3)}


def test_smaller_images_in_early_steps_are_the_crops_shrunk(threads):
    photos = make_photos(20)
    small = make_batches(photos, size_at_step=lambda step: 0.5 if step < 2 else 1.0)
    made = make_and_close(small, range(3))
    assert [tuple(x.shape[2:]) for x, _ in made] == [(8, 8), (8, 8), (16, 16)]
    assert_equal_batches(made[2:], make_and_close(make_batches(photos), [2]))


def test_a_damaged_photograph_is_named_at_the_step_that_needs_it(threads):
    photos = make_photos(20)
    order = random_permutation(20, SEED, RandomStream.ORDER, 0).tolist()
    photos.damaged = {order[13]}
    batches = make_batches(photos, batch_size=4)
    for step in range(3):
        batches.make_batch(step)
    for _ in range(2):
        with pytest.raises(DataError, match=f"photo {order[13]} is damaged"):
            batches.make_batch(3)
    batches.close()


def test_a_slow_photograph_delays_the_step_that_needs_it_and_changes_nothing(monkeypatch):
    expected = make_and_close(make_batches(make_photos(20)), range(3))
    set_threads(monkeypatch, 4)
    slow, order = make_photos(20), random_permutation(20, SEED, RandomStream.ORDER, 0).tolist()
    read = slow.open

    def open_slowly(index):
        time.sleep(0.3 * (index == order[0]))
        return read(index)

    slow.open = open_slowly
    assert_equal_batches(make_and_close(make_batches(slow), range(3)), expected)


def test_batches_are_decoded_ahead_within_bounds_and_none_after_the_end(monkeypatch, threads):
    photos = make_photos(20)
    batches = make_batches(photos, batch_size=4)
    batches.make_batch(0)
    ahead = len(batches.prefetcher.pending)
    assert 2 <= ahead <= 16
    batches.close()
    monkeypatch.setattr("residua.data.crop_prefetcher.MAX_BYTES_AHEAD", 1)
    batches.make_batch(0)
    assert len(batches.prefetcher.pending) == 1
    batches.close()
    photos.read.clear()
    ended = make_batches(photos, batch_size=4, end_step=3)
    make_and_close(ended, range(3))
    assert len(photos.read) == 12


def test_closing_while_photographs_are_decoded_takes_no_longer_than_one_of_them(monkeypatch):
    set_threads(monkeypatch, 2)
    batches = make_batches(make_photos(20, seconds=0.05), batch_size=8)
    batches.make_batch(0)
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 0.3


def test_an_interrupted_evaluation_leaves_no_threads():
    images = stream_photos(make_photos(60, seconds=0.01))
    batches = images.iterate(slice(start, start + 10) for start in range(0, 60, 10))
    next(batches)
    batches.close()


def test_streamed_images_have_the_interface_of_images(threads):
    photos = make_photos(12)
    images = stream_photos(photos)
    in_memory = images[:]
    assert in_memory.pixels.shape == (12, 3, 40, 40)
    assert len(images) == len(in_memory)
    assert images.image_size == in_memory.image_size
    cropped, expected = images.center_crop(SIZE), in_memory.center_crop(SIZE)
    chosen = torch.tensor([4, 1, 11])
    for index in (chosen, slice(2, 9, 3), slice(0, 0), torch.arange(12) % 2 == 0):
        assert torch.equal(cropped[index].pixels, expected[index].pixels)
        assert torch.equal(cropped[index].labels, expected[index].labels)
    parts = list(cropped.iterate(slice(i, i + 5) for i in range(0, 12, 5)))
    assert torch.equal(torch.cat([part.pixels for part in parts]), expected.pixels)
    assert images.fingerprint == photos.fingerprint
    photos.damaged = {3}
    with pytest.raises(DataError, match="photo 3 is damaged"):
        images[2:5]
