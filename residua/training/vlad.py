"""Fit a VLAD classifier to images.

First, the whitening and the dictionary of visual words are fitted to random patches.  Then one
linear SVM per class is fitted to the descriptors of all images.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from residua.data.augment import normalise_pixels, random_crop
from residua.data.counter_rng import RandomStream, random_bits_from_keys
from residua.data.images import Images
from residua.errors import DataError
from residua.net.vlad import IMAGES_PER_CHUNK, VladNetwork
from residua.training.progress import ProgressListener, TrainingProgress

SAMPLING_CHUNK = 10_000  # images in memory at a time, to take one patch of each
# Whitening divides by at least the square root of this, so as not to amplify noise; our choice.
MIN_WHITENED_VARIANCE = 1e-4


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
    """Fit `net` in place to uint8 images; all random draws depend on `seed` alone.

    Stops early once `should_stop()` is true; there is no checkpoint to resume from.  Progress
    counts one step for the dictionary, one for the descriptors of every 64 images, and one for the
    SVM of each class.  Raises DataError for a class without images.
    """
    counts = torch.bincount(images.labels, minlength=net.classifier.classes)
    if not counts.all():
        raise DataError(
            f"class {int((counts == 0).nonzero()[0])} has no training images: "
            "an SVM needs images of every class"
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
    """Fit `net`, and yield after each step, so that the caller can report progress or stop."""
    from sklearn.svm import LinearSVC  # slow to import, and networks do not need it

    fit_whitening_and_dictionary(net, sample_patches(net, images, mean, std, seed), seed)
    yield
    # float64, as the SVM would otherwise make a copy in float64
    descriptors = np.empty((len(images), net.classifier.descriptor_length))
    chunk_starts = range(0, len(images), IMAGES_PER_CHUNK)
    chunks = torch.split(images.pixels, IMAGES_PER_CHUNK)
    for start, chunk in zip(chunk_starts, chunks, strict=True):
        chunk_descriptors = net.compute_descriptors(normalise_pixels(chunk, mean, std))
        descriptors[start : start + len(chunk)] = chunk_descriptors.cpu().numpy()
        yield
    labels = images.labels.cpu().numpy()
    # One class against all others, as LinearSVC itself does, so that each class is a step.
    for k in range(net.classifier.classes):
        svm = LinearSVC(C=net.classifier.cost, dual=True, tol=1e-3, random_state=seed)
        svm.fit(descriptors, labels == k)
        net.weight[k] = torch.from_numpy(svm.coef_[0])
        net.bias[k] = float(svm.intercept_[0])
        yield


def sample_patches(
    net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> Tensor:
    """Draw random patches (samples, patch_numel) of images drawn with replacement."""
    side, patches = net.classifier.patch, []
    numbers = torch.arange(net.classifier.samples, device=images.labels.device)
    for chunk in torch.split(numbers, SAMPLING_CHUNK):
        image_bits = random_bits_from_keys(seed, RandomStream.VLAD_PATCH_IMAGE, chunk)
        position_bits = random_bits_from_keys(seed, RandomStream.VLAD_PATCH_POSITION, chunk)
        pixels = images.pixels[image_bits % len(images)]
        windows = random_crop(pixels, (side, side), position_bits)
        patches.append(net.extract_normalised_patches(normalise_pixels(windows, mean, std))[:, 0])
    return torch.cat(patches)


def fit_whitening_and_dictionary(net: VladNetwork, patches: Tensor, seed: int) -> None:
    """Fit the whitening (PCA) and the words (k-means) of `net` to patches (n, patch_numel)."""
    from sklearn.cluster import MiniBatchKMeans

    # in the order of increasing variance
    variances, directions = torch.linalg.eigh(torch.cov(patches.T.double()))
    leading = slice(-net.classifier.dimensions, None)
    scales = variances[leading].clamp_min(MIN_WHITENED_VARIANCE).sqrt()
    net.mean.copy_(patches.mean(0))
    net.whitening.copy_(directions[:, leading] / scales)
    kmeans = MiniBatchKMeans(net.classifier.words, n_init=3, batch_size=4096, random_state=seed)
    kmeans.fit(net.whiten_patches(patches).cpu().numpy())
    net.words.copy_(torch.from_numpy(kmeans.cluster_centers_))
