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

from residua.config.dataset import DataFile, Dataset
from residua.config.model import ImagePreprocessing
from residua.data.counter_rng import random_permutation
from residua.data.decode import HasPreprocessing
from residua.data.image_cache import DecodedImages, load_or_decode_images
from residua.data.sources.download import find_or_download
from residua.data.sources.image_folder import list_image_dataset
from residua.data.sources.listing import DataProblem
from residua.errors import DataError

Split = Literal["train", "dev", "test"]
FINGERPRINT_CHUNK = 256  # images that are hashed at once, for they may be more than memory holds
SPLIT_SEED = 2015  # which images are held out never changes, whatever a run's seed


@dataclass(frozen=True, slots=True)
class Images:
    """Images (n, channels, height, width) uint8 and their labels (n,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.pixels[index], self.labels[index])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def center_crop(self, size: tuple[int, int]) -> "Images":
        """Without what lies outside of the middle (height, width) of each."""
        top, left = [
            (side - wanted) // 2 for side, wanted in zip(self.pixels.shape[2:], size, strict=True)
        ]
        return Images(self.pixels[:, :, top : top + size[0], left : left + size[1]], self.labels)

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))

    @property
    def fingerprint(self) -> str:
        """A hash of all pixels and labels."""
        digest = hashlib.sha256()
        for pixels in torch.split(self.pixels, FINGERPRINT_CHUNK):
            digest.update(pixels.contiguous().cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def read_split(dataset: Dataset, split: Split, data_dir: Path | None = None) -> Images:
    """One split.  The files of the test split are opened for `test` alone, but for those of photographs, which are decoded at once.

    `folder` is where to look first.  Raises DataError for files that are missing, truncated or altered.
    The training images of a folder of photographs are larger than a network's input, to cut from.
    """
    if dataset.kind == "folder":
        images = Images(*load_decoded_photos(dataset).split_tensors(split))
        return images if split == "train" else images.center_crop(dataset.input[1:])
    if dataset.kind == "sklearn":
        images = read_digits(test=split == "test")
    else:
        split_files = dataset.test if split == "test" else dataset.train
        dataset_folder = find_or_download(dataset, data_dir, split_files)
        files = [(dataset_folder / file.name, file) for file in split_files]
        images = (
            read_cifar_batches(dataset, files)
            if dataset.kind == "batches"
            else read_idx_files(dataset, files)
        )
        if not bool(((images.labels >= 0) & (images.labels < len(dataset.classes))).all()):
            raise DataError(
                f"{dataset_folder} is damaged: it holds labels outside the {len(dataset.classes)} classes of {dataset.name}"
            )
    if split == "test":
        return images
    order = random_permutation(len(images), SPLIT_SEED)
    return images[
        order[: dataset.num_dev_images].sort().values
        if split == "dev"
        else order[dataset.num_dev_images :].sort().values
    ]


@dataclass(frozen=True, slots=True)
class NamedImages:
    """Images with what each is called, and what could not be used."""

    images: Images
    names: list[str]
    problems: tuple[DataProblem, ...] = ()


def read_preprocessed_split(
    dataset: Dataset,
    split: Split | Literal["all"],
    preprocessing: HasPreprocessing,
    data_dir: Path | None = None,
) -> NamedImages:
    """One split, or all, by the preprocessing of a model folder: the pixels that prediction makes of the same files."""
    splits: tuple[Split, ...] = ("train", "dev", "test") if split == "all" else (split,)
    if dataset.kind == "folder":
        decoded_images = load_or_decode_images(
            list_image_dataset(dataset.folder),
            ImagePreprocessing(
                preprocessing.input, preprocessing.resize, preprocessing.interpolation
            ),
        )
        split_range = slice(
            decoded_images.split_slice(splits[0]).start, decoded_images.split_slice(splits[-1]).stop
        )  # they stand in this order
        return NamedImages(
            Images(decoded_images.pixels, decoded_images.labels)[split_range],
            list(decoded_images.names[split_range]),
            decoded_images.problems,
        )
    images_by_split = [read_split(dataset, s, data_dir) for s in splits]
    names = [
        f"{s} image {i}"
        for s, part in zip(splits, images_by_split, strict=True)
        for i in range(len(part))
    ]
    return NamedImages(
        Images(
            torch.cat([part.pixels for part in images_by_split]),
            torch.cat([part.labels for part in images_by_split]),
        ),
        names,
    )


def ensure_dataset_available(dataset: Dataset, data_dir: Path | None = None) -> None:
    """Fetch what is not here yet, or decode it: so that what is wrong is said now, and only once."""
    if dataset.archives:
        find_or_download(dataset, data_dir)
    if dataset.kind == "folder":
        load_decoded_photos(dataset)


def list_skipped_images(dataset: Dataset) -> tuple[DataProblem, ...]:
    """What could not be used of a folder of photographs."""
    return load_decoded_photos(dataset).problems if dataset.kind == "folder" else ()


def load_decoded_photos(dataset: Dataset) -> DecodedImages:
    channels, stored_side = dataset.input[0], dataset.resize
    return load_or_decode_images(
        list_image_dataset(dataset.folder),
        ImagePreprocessing((channels, stored_side, stored_side), stored_side),
    )


def read_digits(test: bool) -> Images:
    """Our choice: every fifth image of scikit-learn's 1,797 is the test part (its own test part is all there is)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    is_test = torch.arange(len(labels)) % 5 == 4
    return Images(pixels, labels)[is_test if test else ~is_test]


def read_cifar_batches(dataset: Dataset, files: list[tuple[Path, DataFile]]) -> Images:
    """The python batches of CIFAR: a pickled dictionary each."""
    pixels, labels = [], []
    for path, file in files:
        batch = ArrayUnpickler(io.BytesIO(read_verified_bytes(path, file))).load_dictionary(path)
        try:
            pixels.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, *dataset.input))
            labels.append(
                np.asarray(
                    batch[b"labels" if b"labels" in batch else b"fine_labels"], dtype=np.int64
                )
            )
        except KeyError as error:
            raise DataError(
                f"{path} is not a batch of {dataset.name}: it has no {error}"
            ) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path} is not a batch of {dataset.name}: {error}") from error
        if labels[-1].shape != pixels[-1].shape[:1]:
            raise DataError(
                f"{path} is not a batch of {dataset.name}: {len(pixels[-1])} images, {labels[-1].size} labels"
            )
    return Images(
        torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels))
    )


def unpickle_empty_array(*what: object) -> NDArray[np.generic]:
    """What a pickle up to protocol 4 starts an array from; its true shape, type and content come next."""
    return np.empty(0, np.uint8)


def unpickle_array_from_buffer(
    content: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], order: Literal["C", "F"]
) -> NDArray[np.generic]:
    """What a pickle of protocol 5 makes an array with."""
    return np.frombuffer(content, dtype).reshape(shape, order=order)


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and numpy arrays; refuses whatever else a pickle could call.

    numpy 2 renamed `numpy.core`, and names of either may stand in a file; neither module is asked for them.
    """

    ALLOWED_GLOBALS: dict[tuple[str, str], object] = {  # noqa: RUF012 -- never changed
        (
            "numpy",
            "ndarray",
        ): None,  # named beside _reconstruct, never called: it would make pointers of any bytes
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
        **{
            (f"numpy.{core}.multiarray", "_reconstruct"): unpickle_empty_array
            for core in ("core", "_core")
        },
        **{
            (f"numpy.{core}.numeric", "_frombuffer"): unpickle_array_from_buffer
            for core in ("core", "_core")
        },
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.ALLOWED_GLOBALS:
            raise DataError(f"it asks to run {module}.{name}, which no data set needs")
        return self.ALLOWED_GLOBALS[module, name]

    def load_dictionary(self, path: Path) -> dict[bytes, object]:
        try:
            value = self.load()
        except DataError as error:
            raise DataError(f"{path} was not read: {error}") from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise DataError(f"{path} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise DataError(
                f"{path} is damaged: it holds a {type(value).__name__}, not a dictionary"
            )
        return value


def read_idx_files(dataset: Dataset, files: list[tuple[Path, DataFile]]) -> Images:
    """An images file and a labels file in the IDX format of MNIST, packed or not."""
    (images, image_file), (labels, label_file) = files
    pixels = parse_idx_array(images, read_verified_bytes(images, image_file), 3)
    targets = parse_idx_array(labels, read_verified_bytes(labels, label_file), 1)
    if len(pixels) != len(targets):
        raise DataError(
            f"{images} holds {len(pixels)} images but {labels.name} {len(targets)} labels"
        )
    if pixels.shape[1:] != dataset.input[1:]:
        raise DataError(f"{images} holds images of {pixels.shape[1:]}, not {dataset.input[1:]}")
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(targets.astype(np.int64)))


def parse_idx_array(path: Path, content: bytes, dimensions: int) -> NDArray[np.uint8]:
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


def read_verified_bytes(path: Path, file: DataFile) -> bytes:
    """The file's bytes, unpacked, once its checksum is right."""
    gzip_path = path.with_name(path.name + ".gz")
    if gzip_path.exists() and not path.exists():
        path = gzip_path
    try:
        content = gzip.decompress(path.read_bytes()) if path == gzip_path else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is truncated or altered: {error}; remove it and fetch it anew"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if (
        file.md5
        and (actual_md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != file.md5
    ):
        raise DataError(
            f"{path} is truncated, altered or of another data set: its MD5 sum is {actual_md5}, not {file.md5}; "
            "remove it and fetch it anew"
        )
    return content
