"""Fit VLAD to images: whitening and dictionary of random patches, then a linear SVM for each class."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from residua.data.augment import normalise_pixels, random_crop
from residua.data.counter_rng import random_bits_from_keys
from residua.data.read import Images
from residua.errors import DataError
from residua.net.vlad import IMAGES_PER_CHUNK, VladNetwork
from residua.training.loop import ProgressListener, TrainingProgress

PATCH_IMAGE_STREAM, PATCH_POSITION_STREAM = (
    3,
    4,
)  # what random bits are for, beside those of `Batches`
SAMPLING_CHUNK = 10_000  # images that are in memory at once to take a patch of each
MIN_WHITENED_VARIANCE = (
    1e-4  # of a direction that is whitened: noise of blank images is not blown up; our choice
)


def fit_vlad(
    net: VladNetwork,
    images: Images,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    *,
    on_progress: ProgressListener,
    should_stop: Callable[[], bool],
) -> TrainingProgress:
    """Fit `net` to uint8 images as a function of `seed`, or until `stop()`, with nothing to go on from.

    A step of the progress is the dictionary, 64 images described, or a class's SVM.  Raises DataError for a class without images.
    """
    counts = torch.bincount(images.labels, minlength=net.classifier.classes)
    if not counts.all():
        raise DataError(
            f"no training image is of class {int((counts == 0).nonzero()[0])}: an SVM needs some of each"
        )
    progress = TrainingProgress(1 + -(-len(images) // IMAGES_PER_CHUNK) + net.classifier.classes)
    progress.start_clock()
    for _ in fit_vlad_stepwise(net, images, mean, std, seed):
        progress.step += 1
        on_progress(progress, None)
        if should_stop():
            break
    progress.stop_clock()
    return progress


def fit_vlad_stepwise(
    net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> Iterator[None]:
    """Pauses after each step."""
    from sklearn.svm import (
        LinearSVC,  # slow to import, as all of scikit-learn, and not needed for a network
    )

    fit_whitening_and_dictionary(net, sample_patches(net, images, mean, std, seed), seed)
    yield
    descriptors = np.empty(
        (len(images), net.classifier.descriptor_length)
    )  # float64, for the SVM would make a copy in it
    for start, chunk in zip(
        range(0, len(images), IMAGES_PER_CHUNK),
        torch.split(images.pixels, IMAGES_PER_CHUNK),
        strict=True,
    ):
        descriptors[start : start + len(chunk)] = (
            net.compute_descriptors(normalise_pixels(chunk, mean, std)).cpu().numpy()
        )
        yield
    labels = images.labels.cpu().numpy()
    for k in range(
        net.classifier.classes
    ):  # each against all others, which is what LinearSVC makes of many classes
        svm = LinearSVC(C=net.classifier.cost, dual=True, tol=1e-3, random_state=seed).fit(
            descriptors, labels == k
        )
        net.weight[k] = torch.from_numpy(svm.coef_[0])
        net.bias[k] = float(svm.intercept_[0])
        yield


def sample_patches(
    net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> Tensor:
    """Random patches of random images, both drawn with replacement: (value.samples, value.pixels)."""
    patch_size, patches = net.classifier.patch, []
    for sample_numbers in torch.split(
        torch.arange(net.classifier.samples, device=images.labels.device), SAMPLING_CHUNK
    ):
        pixels = images.pixels[
            random_bits_from_keys(seed, PATCH_IMAGE_STREAM, sample_numbers) % len(images)
        ]
        windows = random_crop(
            pixels,
            (patch_size, patch_size),
            random_bits_from_keys(seed, PATCH_POSITION_STREAM, sample_numbers),
        )
        patches.append(net.extract_patches(normalise_pixels(windows, mean, std))[:, 0])
    return torch.cat(patches)


def fit_whitening_and_dictionary(net: VladNetwork, patches: Tensor, seed: int) -> None:
    """Whitening and dictionary of patches (n, value.pixels)."""
    from sklearn.cluster import MiniBatchKMeans

    variances, directions = torch.linalg.eigh(
        torch.cov(patches.T.double())
    )  # from the smallest variance to the largest
    leading = slice(-net.classifier.dimensions, None)
    net.mean.copy_(patches.mean(0))
    net.whitening.copy_(
        directions[:, leading] / variances[leading].clamp_min(MIN_WHITENED_VARIANCE).sqrt()
    )
    kmeans = MiniBatchKMeans(net.classifier.words, n_init=3, batch_size=4096, random_state=seed)
    net.words.copy_(
        torch.from_numpy(kmeans.fit(net.whiten_patches(patches).cpu().numpy()).cluster_centers_)
    )
