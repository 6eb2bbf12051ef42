"""Fit VLAD to images: whitening and dictionary of random patches, then a linear SVM for each class."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from residua.data.augment import crop, normalise
from residua.data.counter import bits
from residua.data.read import Images
from residua.errors import DataError
from residua.net.vlad import TOGETHER, VladNetwork
from residua.train.loop import Listener, Progress

IMAGE, PLACE = 3, 4  # what random bits are for, beside those of `Batches`
TOGETHER_SAMPLED = 10_000  # images that are in memory at once to take a patch of each
LEAST_VARIANCE = 1e-4  # of a direction that is whitened: noise of blank images is not blown up; our choice


def fit_vlad(
    net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int,
    *, tell: Listener, stop: Callable[[], bool],
) -> Progress:  # fmt: skip
    """Fit `net` to uint8 images as a function of `seed`, or until `stop()`, with nothing to go on from.

    A step of the progress is the dictionary, 64 images described, or a class's SVM.  Raises DataError for a class without images.
    """
    counts = torch.bincount(images.labels, minlength=net.value.classes)
    if not counts.all():
        raise DataError(f"no training image is of class {int((counts == 0).nonzero()[0])}: an SVM needs some of each")
    progress = Progress(1 + -(-len(images) // TOGETHER) + net.value.classes)
    progress.start()
    for _ in fitting(net, images, mean, std, seed):
        progress.step += 1
        tell(progress, None)
        if stop():
            break
    progress.stop()
    return progress


def fitting(net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int) -> Iterator[None]:
    """Pauses after each step."""
    from sklearn.svm import LinearSVC  # slow to import, as all of scikit-learn, and not needed for a network

    fit_words(net, sampled(net, images, mean, std, seed), seed)
    yield
    descriptors = np.empty((len(images), net.value.numbers))  # float64, for the SVM would make a copy in it
    for start, part in zip(range(0, len(images), TOGETHER), torch.split(images.pixels, TOGETHER), strict=True):
        descriptors[start : start + len(part)] = net.describe(normalise(part, mean, std)).cpu().numpy()
        yield
    labels = images.labels.cpu().numpy()
    for k in range(net.value.classes):  # each against all others, which is what LinearSVC makes of many classes
        svm = LinearSVC(C=net.value.cost, dual=True, tol=1e-3, random_state=seed).fit(descriptors, labels == k)
        net.weight[k] = torch.from_numpy(svm.coef_[0])
        net.bias[k] = float(svm.intercept_[0])
        yield


def sampled(net: VladNetwork, images: Images, mean: tuple[float, ...], std: tuple[float, ...], seed: int) -> Tensor:
    """Random patches of random images, both drawn with replacement: (value.samples, value.pixels)."""
    side, patches = net.value.patch, []
    for which in torch.split(torch.arange(net.value.samples, device=images.labels.device), TOGETHER_SAMPLED):
        pixels = images.pixels[bits(seed, IMAGE, which) % len(images)]
        windows = crop(pixels, (side, side), bits(seed, PLACE, which))
        patches.append(net.patches(normalise(windows, mean, std))[:, 0])
    return torch.cat(patches)


def fit_words(net: VladNetwork, patches: Tensor, seed: int) -> None:
    """Whitening and dictionary of patches (n, value.pixels)."""
    from sklearn.cluster import MiniBatchKMeans

    variances, directions = torch.linalg.eigh(torch.cov(patches.T.double()))  # from the smallest variance to the largest
    chosen = slice(-net.value.dimensions, None)
    net.mean.copy_(patches.mean(0))
    net.whitening.copy_(directions[:, chosen] / variances[chosen].clamp_min(LEAST_VARIANCE).sqrt())
    kmeans = MiniBatchKMeans(net.value.words, n_init=3, batch_size=4096, random_state=seed)
    net.words.copy_(torch.from_numpy(kmeans.fit(net.whitened(patches).cpu().numpy()).cluster_centers_))
