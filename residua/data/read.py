"""A data set's files -> uint8 images and labels in memory."""

import codecs
import gzip
import hashlib
import io
import pickle
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residua.data.counter import permutation
from residua.data.fetch import located
from residua.data.folder import listed
from residua.data.gallery import Gallery, gathered
from residua.data.image import Preprocessing
from residua.data.listing import Problem
from residua.errors import DataError
from residua.spec.dataset import Dataset, File
from residua.spec.model import View

Split = Literal["train", "dev", "test"]
TOGETHER = 256  # images that are hashed at once, for they may be more than memory holds
SPLIT_SEED = 2015  # which images are held out never changes, whatever a run's seed


@dataclass(frozen=True, slots=True)
class Images:
    """Images (n, channels, height, width) uint8 and their labels (n,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Tensor | slice) -> "Images":
        return Images(self.pixels[which], self.labels[which])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def middle(self, size: tuple[int, int]) -> "Images":
        """Without what lies outside of the middle (height, width) of each."""
        top, left = [(side - wanted) // 2 for side, wanted in zip(self.pixels.shape[2:], size, strict=True)]
        return Images(self.pixels[:, :, top : top + size[0], left : left + size[1]], self.labels)

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash of all pixels and labels."""
        digest = hashlib.sha256()
        for pixels in torch.split(self.pixels, TOGETHER):
            digest.update(pixels.contiguous().cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def read(dataset: Dataset, split: Split, folder: Path | None = None) -> Images:
    """One split.  The files of the test split are opened for `test` alone, but for those of photographs, which are decoded at once.

    `folder` is where to look first.  Raises DataError for files that are missing, truncated or altered.
    The training images of a folder of photographs are larger than a network's input, to cut from.
    """
    if dataset.kind == "folder":
        images = Images(*gallery(dataset).part(split))
        return images if split == "train" else images.middle(dataset.input[1:])
    if dataset.kind == "sklearn":
        images = read_digits(test=split == "test")
    else:
        wanted = dataset.test if split == "test" else dataset.train
        place = located(dataset, folder, wanted)
        files = [(place / file.name, file) for file in wanted]
        images = read_batches(dataset, files) if dataset.kind == "batches" else read_idx(dataset, files)
        if not bool(((images.labels >= 0) & (images.labels < len(dataset.classes))).all()):
            raise DataError(f"{place} is damaged: it holds labels outside the {len(dataset.classes)} classes of {dataset.name}")
    if split == "test":
        return images
    order = permutation(len(images), SPLIT_SEED)
    return images[order[: dataset.dev].sort().values if split == "dev" else order[dataset.dev :].sort().values]


@dataclass(frozen=True, slots=True)
class Seen:
    """Images with what each is called, and what could not be used."""

    images: Images
    names: list[str]
    problems: tuple[Problem, ...] = ()


def seen(dataset: Dataset, split: Split | Literal["all"], like: Preprocessing, folder: Path | None = None) -> Seen:
    """One split, or all, by the preprocessing of a model folder: the pixels that prediction makes of the same files."""
    splits: tuple[Split, ...] = ("train", "dev", "test") if split == "all" else (split,)
    if dataset.kind == "folder":
        held = gathered(listed(dataset.folder), View(like.input, like.resize, like.interpolation))
        which = slice(held.where(splits[0]).start, held.where(splits[-1]).stop)  # they stand in this order
        return Seen(Images(held.pixels, held.labels)[which], list(held.names[which]), held.problems)
    parts = [read(dataset, s, folder) for s in splits]
    names = [f"{s} image {i}" for s, part in zip(splits, parts, strict=True) for i in range(len(part))]
    return Seen(Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])), names)


def ready(dataset: Dataset, folder: Path | None = None) -> None:
    """Fetch what is not here yet, or decode it: so that what is wrong is said now, and only once."""
    if dataset.archives:
        located(dataset, folder)
    if dataset.kind == "folder":
        gallery(dataset)


def left_out(dataset: Dataset) -> tuple[Problem, ...]:
    """What could not be used of a folder of photographs."""
    return gallery(dataset).problems if dataset.kind == "folder" else ()


def gallery(dataset: Dataset) -> Gallery:
    channels, side = dataset.input[0], dataset.resize
    return gathered(listed(dataset.folder), View((channels, side, side), side))


def read_digits(test: bool) -> Images:
    """Our choice: every fifth image of scikit-learn's 1,797 is the test part (its own test part is all there is)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    chosen = torch.arange(len(labels)) % 5 == 4
    return Images(pixels, labels)[chosen if test else ~chosen]


def read_batches(dataset: Dataset, files: list[tuple[Path, File]]) -> Images:
    """The python batches of CIFAR: a pickled dictionary each."""
    pixels, labels = [], []
    for path, file in files:
        batch = ArrayUnpickler(io.BytesIO(checked(path, file))).read(path)
        try:
            pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, *dataset.input))
            labels.append(np.asarray(batch[b"labels" if b"labels" in batch else b"fine_labels"], dtype=np.int64))
        except KeyError as error:
            raise DataError(f"{path} is not a batch of {dataset.name}: it has no {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a batch of {dataset.name}: {error}") from error
        if labels[-1].shape != pixels[-1].shape[:1]:
            raise DataError(f"{path} is not a batch of {dataset.name}: {len(pixels[-1])} images, {labels[-1].size} labels")
    return Images(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))


def empty_array(*what: object) -> NDArray[np.generic]:
    """What a pickle up to protocol 4 starts an array from; its true shape, type and content come next."""
    return np.empty(0, np.uint8)


def filled_array(
    content: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[np.generic]:
    """What a pickle of protocol 5 makes an array with."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and numpy arrays; refuses whatever else a pickle could call.

    numpy 2 renamed `numpy.core`, and names of either may stand in a file; neither module is asked for them.
    """

    MEANINGS: dict[tuple[str, str], object] = {  # noqa: RUF012 -- never changed
        ("numpy", "ndarray"): None,  # named beside _reconstruct, never called: it would make pointers of any bytes
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): empty_array for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): filled_array for core in ("core", "_core")},
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.MEANINGS:
            raise DataError(f"it asks to run {module}.{name}, which no data set needs")
        return self.MEANINGS[module, name]

    def read(self, path: Path) -> dict[bytes, object]:
        try:
            value = self.load()
        except DataError as error:
            raise DataError(f"{path} was not read: {error}") from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise DataError(f"{path} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} is damaged: it holds a {type(value).__name__}, not a dictionary")
        return value


def read_idx(dataset: Dataset, files: list[tuple[Path, File]]) -> Images:
    """An images file and a labels file in the IDX format of MNIST, packed or not."""
    (images, image_file), (labels, label_file) = files
    pixels = idx_array(images, checked(images, image_file), 3)
    targets = idx_array(labels, checked(labels, label_file), 1)
    if len(pixels) != len(targets):
        raise DataError(f"{images} holds {len(pixels)} images but {labels.name} {len(targets)} labels")
    if pixels.shape[1:] != dataset.input[1:]:
        raise DataError(f"{images} holds images of {pixels.shape[1:]}, not {dataset.input[1:]}")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(targets.astype(np.int64)))


def idx_array(path: Path, content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Big-endian: 0, 0, type 8 (unsigned bytes), the number of dimensions, their sizes, the bytes."""
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions")
    sizes = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != prod(sizes):
        raise DataError(
            f"{path} is truncated or altered: it holds {len(content) - start:,} bytes of pixels or labels, not {prod(sizes):,}"
        )
    return np.frombuffer(content[start:], np.uint8).reshape(sizes).copy()


def checked(path: Path, file: File) -> bytes:
    """The file's bytes, unpacked, once its checksum is right."""
    packed = path.with_name(path.name + ".gz")
    if packed.exists() and not path.exists():
        path = packed
    try:
        content = gzip.decompress(path.read_bytes()) if path == packed else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered: {error}; remove it and fetch it anew") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if file.md5 and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != file.md5:
        raise DataError(
            f"{path} is truncated, altered or of another data set: its MD5 sum is {found}, not {file.md5}; "
            "remove it and fetch it anew"
        )
    return content
