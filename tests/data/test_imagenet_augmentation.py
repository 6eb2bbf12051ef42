"""The augmentation of ImageNet's recipes, compared with torchvision, Pillow, scipy and numpy."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from residua.config.augmentation import Augmentation
from residua.config.recipes import RECIPES
from residua.data.augment import draw_scaled_box, random_scaled_crop
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import RandomStream, random_bits_from_keys
from residua.data.images import Images
from residua.data.mixing import apply_mixup_or_cutmix, find_beta_quantiles
from residua.data.random_changes import add_colour_components, erase_boxes
from residua.errors import UsageError
from tests.data.faulty_photos import make_picture
from tests.third_party import torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw_bits(count, numbers, seed=1):
    return random_bits_from_keys(seed, torch.arange(count)[:, None], torch.arange(numbers))


def crop_as_torchvision(photo, crop, shorter_side, bits):
    """Resize to a random shorter side and crop at a random pixel, as the paper says."""
    resize, cut = torchvision.transforms.functional.resize, torchvision.transforms.functional.crop
    low, high = shorter_side
    scaled = resize(photo, low + bits[0] % (high - low + 1))
    top = bits[1] % (scaled.height - crop + 1)
    left = bits[2] % (scaled.width - crop + 1)
    return np.asarray(cut(scaled, top, left, crop, crop)).astype(int)


@pytest.mark.parametrize("size", [(70, 50), (50, 83), (64, 64)])
def test_the_box_of_a_scaled_crop_is_what_torchvision_crops_from_the_resized_photo(size):
    photo = make_picture(3, 2).resize(size)
    for bits in draw_bits(20, 3).tolist():
        box = draw_scaled_box((photo.height, photo.width), (40, 40), (45, 90), bits)
        ours = photo.resize((40, 40), Image.Resampling.BILINEAR, box=box)
        expected = crop_as_torchvision(photo, 40, (45, 90), bits)
        difference = np.abs(np.asarray(ours).astype(int) - expected)
        assert difference.max() <= 2  # Pillow rounds levels twice
        assert difference.mean() < 0.2


def test_scaled_crops_of_a_batch_are_those_of_torchvision():
    photos = [make_picture(i, i % 3).resize((48, 48)) for i in range(12)]
    pixels = torch.stack([torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in photos])
    bits = draw_bits(12, 3)
    ours = random_scaled_crop(pixels, (40, 40), (48, 90), bits)
    for photo, crop, numbers in zip(photos, ours, bits.tolist(), strict=True):
        expected = crop_as_torchvision(photo, 40, (48, 90), numbers)
        assert np.abs(crop.permute(1, 2, 0).numpy() - expected).max() <= 1.01


def test_a_scale_below_the_crop_is_raised_to_it():
    assert draw_scaled_box((50, 50), (40, 40), (8, 40), (5, 7, 9)) == (0, 0, 50, 50)


def test_scaled_crops_show_all_sides_equally_often():
    bits = draw_bits(20_000, 3)
    left, top, right, bottom = draw_scaled_box((256, 256), (224, 224), (256, 480), bits.unbind(1))
    sides = (224 * 256 / (right - left)).round()
    counts = torch.bincount(sides.long() - 256, minlength=225)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (sides.min(), sides.max()) == (256, 480)
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 256 + 1e-3


def test_colour_components_are_those_of_krizhevsky():
    bits, pixels = draw_bits(6, 3), torch.full((6, 3, 2, 2), 100, dtype=torch.uint8)
    ours = add_colour_components(pixels, 0.1, bits)[:, :, 0, 0]
    eigenvectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    shares = ((bits.numpy() >> 39) + 0.5) / 2**24
    alphas = 0.1 * stats.norm.ppf(shares)
    expected = 100 + 255 * (alphas * np.array([0.2175, 0.0188, 0.0045])) @ eigenvectors.T
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-3)


def test_shares_of_colour_components_are_normal():
    shifts = add_colour_components(torch.zeros(5000, 3, 1, 1), 0.1, draw_bits(5000, 3))[:, :, 0, 0]
    first = shifts.numpy() @ np.array([-0.5675, -0.5808, -0.5836]) / (255 * 0.2175 * 0.1)
    assert stats.kstest(first, "norm").pvalue > 1e-3


def test_erased_boxes_have_the_sizes_and_places_of_torchvision():
    count, side = 3000, 64
    erased = erase_boxes(torch.zeros(count, 1, side, side), 1.0, (1.0,), draw_bits(count, 5))[:, 0]
    torch.manual_seed(0)
    blank = torch.zeros(1, side, side)
    drawn = [
        torchvision.transforms.RandomErasing.get_params(blank, (0.02, 0.33), (0.3, 3.3), [0.0])
        for _ in range(count)
    ]
    tops, lefts, heights, widths = np.array([box[:4] for box in drawn]).T
    rows, columns = (erased > 0).any(2), (erased > 0).any(1)
    ours = {
        "height": rows.sum(1),
        "width": columns.sum(1),
        "area": rows.sum(1) * columns.sum(1),
        "top": rows.int().argmax(1),
        "left": columns.int().argmax(1),
    }
    theirs = {
        "height": heights,
        "width": widths,
        "area": heights * widths,
        "top": tops,
        "left": lefts,
    }
    for name, values in ours.items():
        assert stats.ks_2samp(values.numpy(), theirs[name]).pvalue > 1e-3, name
    filled = (erased > 0).sum((1, 2))
    assert torch.equal(filled, ours["area"])  # a whole box


def test_boxes_are_erased_with_the_given_probability_and_the_mean_colour():
    pixels = torch.full((4000, 3, 8, 8), 7, dtype=torch.uint8)
    erased = erase_boxes(pixels, 0.1, MEAN, draw_bits(4000, 5))
    changed = (erased != 7).any(1).flatten(1).any(1)
    assert abs(changed.float().mean() - 0.1) < 0.02
    levels = erased.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0).tolist()
    assert levels == [[7, 7, 7], [124, 116, 104]]
    assert torch.equal(erase_boxes(pixels, 0.0, MEAN, draw_bits(4000, 5)), pixels)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_mixup_draws_its_proportion_from_a_beta_distribution(alpha):
    shares = torch.linspace(0.001, 0.999, 500)
    expected = stats.beta.ppf(shares.numpy(), alpha, alpha)
    np.testing.assert_allclose(find_beta_quantiles(shares, alpha).numpy(), expected, atol=1e-3)
    white, black = torch.ones(4000, 1, 2, 2), torch.zeros(4000, 1, 2, 2)
    mixed, own_share = apply_mixup_or_cutmix(white, black, 1.0, 0.0, draw_bits(4000, 4), alpha)
    assert torch.allclose(mixed.mean((1, 2, 3)), own_share)
    assert stats.kstest(own_share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def make_numbered_images(count):
    """Images whose levels are their numbers."""
    levels = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    return Images(levels.expand(count, 3, 6, 6).contiguous(), torch.arange(count) % 5)


def make_batches(images, batch_size, augment, **options):
    return TrainingBatches(images, batch_size, augment, (0.0,) * 3, (1 / 255,) * 3, 3, **options)


def test_repeats_show_each_image_as_often_in_a_batch_and_once_in_as_many_epochs():
    plain = Augmentation(pad=0, flip=False)
    batches = make_batches(make_numbered_images(24), 12, plain, repeats=3)
    once = make_batches(make_numbered_images(24), 4, plain)
    seen = []
    for step in range(12):  # 6 passes of 24 samples: each image twice three times
        numbers = batches.make_batch(step)[0][:, 0, 0, 0].round().int()
        first = once.make_batch(step)[0][:, 0, 0, 0].round().int()
        assert torch.equal(numbers, first.repeat(3))
        seen += numbers.tolist()
    assert set(np.bincount(seen, minlength=24)) == {6}


def test_repeats_are_augmented_differently_and_shared_by_ranks_as_by_one_process():
    augment = Augmentation(pad=0, area=0.3, colour=0.3)
    images = Images(torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8), torch.arange(20) % 5)
    pixels, labels = make_batches(images, 8, augment, repeats=4).make_batch(3)
    assert torch.equal(labels, labels[:2].repeat(4))
    assert len(pixels[::2].flatten(1).unique(dim=0)) == 4
    parts = [
        make_batches(images, 8, augment, repeats=4, share=range(i, i + 2)).make_batch(3)[0]
        for i in range(0, 8, 2)
    ]
    assert torch.equal(torch.cat(parts), pixels)


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(pad=0, shorter_side=(8, 14), pca_colour=0.1),
        Augmentation(pad=0, area=0.08, trivial=True, erasing=0.5, mixup=0.5, mixup_alpha=0.2),
    ],
    ids=["he2015", "torchvision2021"],
)
def test_a_sample_is_the_same_in_any_batch(augment):
    images = Images(torch.randint(0, 256, (24, 3, 10, 10), dtype=torch.uint8), torch.arange(24) % 5)
    large, small = [
        TrainingBatches(images, size, augment, MEAN, STD, 3, crop_size=(8, 8)) for size in (12, 4)
    ]
    pieces = [small.make_batch(step)[0] for step in (3, 4, 5)]
    assert torch.equal(large.make_batch(1)[0], torch.cat(pieces))


def test_streams_of_random_numbers_are_not_shared():
    assert len({RandomStream.PCA_COLOUR, RandomStream.ERASING} | set(range(11))) == 13


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shorter_side": (480, 256)}, "give the smallest and the largest number of pixels"),
        ({"shorter_side": (256,)}, "shorter_side=[256] is invalid"),
        ({"shorter_side": (256, 480), "pad": 4}, "two ways to crop at random: set augment.pad=0"),
        ({"shorter_side": (256, 480), "pad": 0, "area": 0.5}, "set augment.area=1"),
        ({"erasing": 2}, "erasing"),
        ({"pca_colour": -1}, "pca_colour"),
        ({"mixup_alpha": 0}, "mixup_alpha"),
    ],
    ids=str,
)
def test_impossible_values_are_refused_by_name(values, message):
    with pytest.raises(UsageError) as error:
        Augmentation(**({"pad": 0} | values))
    assert message in str(error.value)


def test_imagenet_recipes_follow_their_sources():
    he, ninety, modern = [
        RECIPES[f"imagenet-{name}"] for name in ("he2015", "90", "torchvision2021")
    ]
    steps = (0, 149_999, 150_000, 300_000, 599_999)
    rates = [he.lr_at_step(step, 600_000) for step in steps]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 1e-4])
    total = ninety.total_steps(1_281_167)
    assert total == round(90 * 1_281_167 / 256)
    epochs = [ninety.lr_at_step(int(total * e / 90), total) for e in (29.9, 30.1, 59.9, 60.1)]
    assert epochs == pytest.approx([0.1, 0.01, 0.01, 0.001])
    total = modern.total_steps(1_281_167)
    rates = [modern.lr_at_step(int(total * e / 600), total) for e in (2.5, 5, 302.5, 599.99)]
    assert rates == pytest.approx([0.25, 0.5, 0.25, 0], abs=1e-3)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=595)
    for _ in range(100):
        optimiser.step()
        cosine.step()
    ours = modern.lr_at_step(round(total * 105 / 600), total)
    assert ours == pytest.approx(cosine.get_last_lr()[0], rel=1e-4)
    assert modern.ema**32 == pytest.approx(1 - (1 - 0.99998) * 8 * 128 * 32 / 600)
