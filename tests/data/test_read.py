"""Reading data sets from their files: intact, damaged and hostile ones."""

import codecs
import gzip
import os
import pickle
import struct
from dataclasses import replace
from hashlib import md5

import numpy as np
import pytest
import torch

from residua.config.dataset import DataFile, get_dataset
from residua.data.read import read_split
from residua.errors import DataError

SPLITS = ("train", "dev", "test")


def compute_md5(content):
    return md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def isolate_data_folders(tmp_path, monkeypatch):
    """Let data sets be found only in the folder that a test gives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RESIDUA_DATA", raising=False)


def make_pickled_batch(count, seed=0, protocol=4):
    """A pickled batch of CIFAR-10, its pixels and its labels."""
    random = np.random.default_rng(seed)
    pixels, labels = (
        random.integers(0, 256, (count, 3072), dtype=np.uint8),
        random.integers(0, 10, count).tolist(),
    )
    return (
        pickle.dumps({b"data": pixels, b"labels": labels}, protocol),
        pixels.reshape(-1, 3, 32, 32),
        labels,
    )


def write_small_cifar(folder, **contents):
    """Write training files of the given bytes; return CIFAR-10 with them and 3 dev images."""
    data_folder = folder / "cifar-10-batches-py"
    data_folder.mkdir()
    for name, content in contents.items():
        (data_folder / name).write_bytes(content)
    files = tuple(DataFile(name, compute_md5(content)) for name, content in contents.items())
    return replace(get_dataset("cifar10"), train=files, test=(), num_dev_images=3, archives=())


def make_idx_bytes(array, kind=8):
    return (
        bytes((0, 0, kind, array.ndim))
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def write_small_mnist(folder, images, labels, compressed=False, name="mnist"):
    """Write training files of the given bytes; return MNIST with them and 2 dev images."""
    data_folder = folder / name
    data_folder.mkdir()
    data, files = get_dataset(name), []
    for file, content in zip(data.train, (images, labels), strict=True):
        path = data_folder / (file.name + ".gz" * compressed)
        path.write_bytes(gzip.compress(content) if compressed else content)
        files.append(DataFile(file.name, compute_md5(content)))
    return replace(data, train=tuple(files), num_dev_images=2)


def make_mnist_arrays(count=5):
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, 28, 28), dtype=np.uint8), random.integers(
        0, 10, count, dtype=np.uint8
    )


def read_train_and_dev(data, folder):
    """The training and dev images together, as sorted pairs (bytes of an image, label)."""
    return sorted(
        (x.numpy().tobytes(), int(y))
        for split in ("train", "dev")
        for x, y in zip(*get_pixels_and_labels(read_split(data, split, folder)), strict=True)
    )


def get_pixels_and_labels(images):
    return images.pixels, images.labels


# Python batches


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_batches_are_read_unchanged(tmp_path, protocol):
    (one, pixels, labels), (two, more, others) = (
        make_pickled_batch(4, 1, protocol),
        make_pickled_batch(7, 2, protocol),
    )
    data = write_small_cifar(tmp_path, data_batch_1=one, data_batch_2=two)
    expected = [(x.tobytes(), y) for x, y in zip([*pixels, *more], labels + others, strict=True)]
    assert read_train_and_dev(data, tmp_path) == sorted(expected)
    assert [len(read_split(data, split, tmp_path)) for split in ("train", "dev")] == [8, 3]


@pytest.mark.parametrize(
    ("one", "other"), [(b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")]
)
def test_arrays_pickled_by_numpy_1_and_by_numpy_2_are_read(tmp_path, one, other):
    content, *_ = make_pickled_batch(4, protocol=2)
    data = write_small_cifar(tmp_path, data_batch_1=content.replace(one, other))
    assert len(read_split(data, "train", tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "labels"), [("cifar100", [96, 97, 98, 99]), ("cifar100-coarse", [16, 17, 18, 19])]
)
def test_cifar100_has_the_fine_labels_and_cifar100_coarse_the_superclasses(tmp_path, name, labels):
    content = pickle.dumps(
        {
            b"data": np.zeros((4, 3072), np.uint8),
            b"coarse_labels": [16, 17, 18, 19],
            b"fine_labels": [96, 97, 98, 99],
        }
    )
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    data = replace(
        get_dataset(name), train=(DataFile("train", compute_md5(content)),), num_dev_images=2
    )
    assert [y for _, y in read_train_and_dev(data, tmp_path)] == labels
    assert len(set(data.classes)) == labels[-1] + 1


class PickledCall:
    """An object whose pickle makes its reader call a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("what", "arguments", "name"),
    [
        (os.system, ("touch ran",), r"posix\.system"),
        (eval, ("1",), r"\w+\.eval"),
        (np.load, ("x",), r"numpy\.load"),
    ],
    ids=["os.system", "eval", "numpy.load"],
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch, what, arguments, name, protocol):
    monkeypatch.chdir(tmp_path)
    data = write_small_cifar(
        tmp_path, data_batch_1=pickle.dumps({b"data": PickledCall(what, *arguments)}, protocol)
    )
    with pytest.raises(
        DataError,
        match=rf"data_batch_1 was not loaded: it would run {name}, which is unsafe; "
        "delete the file and download it again$",
    ):
        read_split(data, "train", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_cannot_build_object_arrays_from_its_bytes(tmp_path):
    forged = PickledCall(np.ndarray, (1,), np.dtype(object), bytes(8))
    data = write_small_cifar(tmp_path, data_batch_1=pickle.dumps({b"data": forged, b"labels": [0]}))
    with pytest.raises(DataError, match="data_batch_1 is damaged"):
        read_split(data, "train", tmp_path)


def test_a_pickle_cannot_use_any_other_codec_than_that_of_numpy(tmp_path):
    forged = PickledCall(codecs.encode, "x" * 99, "punycode")  # of quadratic time
    data = write_small_cifar(tmp_path, data_batch_1=pickle.dumps({b"data": forged}, 2))
    with pytest.raises(
        DataError, match=r"data_batch_1 was not loaded: it encodes bytes as b?'punycode'"
    ):
        read_split(data, "train", tmp_path)


def test_a_truncated_batch_is_reported_by_its_checksum(tmp_path):
    content, *_ = make_pickled_batch(4)
    data = write_small_cifar(tmp_path, data_batch_1=content)
    (tmp_path / data.folder / "data_batch_1").write_bytes(content[:-100])
    sentence = (
        r"data_batch_1 is truncated, altered or of another data set: "
        rf"its MD5 sum is {compute_md5(content[:-100])}, not {compute_md5(content)}; "
        r"delete it and download it again$"
    )
    with pytest.raises(DataError, match=sentence):
        read_split(data, "train", tmp_path)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.9999])
def test_a_truncated_batch_with_a_matching_checksum_is_reported_as_damaged(tmp_path, share):
    content, *_ = make_pickled_batch(4)
    data = write_small_cifar(tmp_path, data_batch_1=content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"data_batch_1 is damaged: .+"):
        read_split(data, "train", tmp_path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "is damaged: it holds a list, not a dictionary"),
        ({b"labels": [1]}, "is not a batch of cifar10: it has no b'data'"),
        (
            {b"data": np.zeros((1, 3072), np.uint8)},
            "is not a batch of cifar10: it has no b'fine_labels'",
        ),
        (
            {b"data": np.zeros(3071, np.uint8), b"labels": [1]},
            "is not a batch of cifar10: cannot reshape",
        ),
        ({b"data": [300] * 3072, b"labels": [1]}, "is not a batch of cifar10: "),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
            "is not a batch of cifar10: it has 2 images but 1 labels, and the numbers must match",
        ),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": None}, "is not a batch of cifar10: "),
    ],
    ids=str,
)
def test_a_pickle_that_is_no_batch_gives_the_reason(tmp_path, value, reason):
    data = write_small_cifar(tmp_path, data_batch_1=pickle.dumps(value))
    with pytest.raises(DataError, match=f"data_batch_1 {reason}"):
        read_split(data, "train", tmp_path)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes_is_refused(tmp_path, label):
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [label]})
    with pytest.raises(
        DataError, match=r"is damaged: it holds labels outside the 10 classes of cifar10$"
    ):
        read_split(write_small_cifar(tmp_path, data_batch_1=content), "train", tmp_path)


def test_a_missing_file_is_reported(tmp_path):
    data = write_small_cifar(tmp_path, data_batch_1=b"", data_batch_2=b"")
    (tmp_path / data.folder / "data_batch_2").unlink()
    with pytest.raises(DataError, match="cifar-10-batches-py lacks data_batch_2 of cifar10"):
        read_split(data, "train", tmp_path)


# IDX files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_are_read_unchanged(tmp_path, packed, name):
    pixels, labels = make_mnist_arrays()
    data = write_small_mnist(tmp_path, make_idx_bytes(pixels), make_idx_bytes(labels), packed, name)
    assert read_train_and_dev(data, tmp_path) == sorted(
        (x.tobytes(), int(y)) for x, y in zip(pixels, labels, strict=True)
    )
    images = read_split(data, "train", tmp_path)
    assert images.pixels.shape == (3, 1, 28, 28)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (
            make_idx_bytes(make_mnist_arrays()[0])[:-1],
            r"is truncated or altered: it holds 3,919 bytes of pixels or labels, not 3,920$",
        ),
        (
            make_idx_bytes(make_mnist_arrays()[0]) + b"0",
            r"is truncated or altered: it holds 3,921 bytes of pixels or labels, not 3,920$",
        ),
        (make_idx_bytes(make_mnist_arrays()[0])[:10], "is not an IDX file of 3 dimensions$"),
        (b"", "is not an IDX file of 3 dimensions$"),
        (make_idx_bytes(make_mnist_arrays()[0], kind=9), "is not an IDX file of 3 dimensions$"),
        (make_idx_bytes(make_mnist_arrays()[1]), "is not an IDX file of 3 dimensions$"),
        (
            make_idx_bytes(make_mnist_arrays(4)[0]),
            "holds 4 images, but train-labels-idx1-ubyte holds 5 labels$",
        ),
        (
            make_idx_bytes(make_mnist_arrays()[0][:, 1:]),
            r"holds images of shape \(27, 28\), not \(28, 28\)$",
        ),
        # 2^64 bytes announced and none there: 0 of 0 to a product in 64 bits
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 31, 1 << 31, 4), "is truncated or altered"),
    ],
    ids=range(9),
)
def test_an_invalid_idx_file_gives_the_reason(tmp_path, images, reason):
    data = write_small_mnist(tmp_path, images, make_idx_bytes(make_mnist_arrays()[1]))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte {reason}"):
        read_split(data, "train", tmp_path)


@pytest.mark.parametrize(
    "spoil", [lambda c: c[:-9], lambda c: c[:50] + bytes(9) + c[59:], lambda c: b"PK" + c[2:]]
)
def test_a_damaged_gz_file_is_reported(tmp_path, spoil):
    data = write_small_mnist(
        tmp_path,
        make_idx_bytes(make_mnist_arrays()[0]),
        make_idx_bytes(make_mnist_arrays()[1]),
        compressed=True,
    )
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(
        DataError,
        match=r"train-images-idx3-ubyte\.gz is truncated or altered: .+; "
        r"delete it and download it again$",
    ):
        read_split(data, "train", tmp_path)


def test_a_gz_file_is_unpacked_no_further_than_the_largest_file_of_a_data_set(
    tmp_path, monkeypatch
):
    pixels, labels = map(make_idx_bytes, make_mnist_arrays())
    data = write_small_mnist(tmp_path, pixels, labels, compressed=True)
    monkeypatch.setattr("residua.data.sources.array_files.MAX_FILE_BYTES", len(pixels) - 1)
    with pytest.raises(
        DataError,
        match=rf"\.gz is larger than any file of this data set, {len(pixels) - 1:,} bytes at most",
    ):
        read_split(data, "train", tmp_path)


def test_mnist_files_are_not_mistaken_for_fashion_mnist(tmp_path):
    pixels, labels = make_mnist_arrays()
    write_small_mnist(tmp_path, make_idx_bytes(pixels), make_idx_bytes(labels))
    with pytest.raises(DataError, match="is truncated, altered or of another data set"):
        read_split(get_dataset("fashion-mnist"), "train", tmp_path / "mnist")


def test_a_file_without_a_published_checksum_is_read_unchecked(tmp_path):
    data = write_small_mnist(
        tmp_path, make_idx_bytes(make_mnist_arrays()[0]), make_idx_bytes(make_mnist_arrays()[1])
    )
    unstated = replace(data, train=tuple(replace(file, md5="") for file in data.train))
    assert read_train_and_dev(unstated, tmp_path) == read_train_and_dev(data, tmp_path)


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="everything can be read by this user"
)
def test_a_file_without_read_permission_is_reported(tmp_path):
    data = write_small_mnist(
        tmp_path, make_idx_bytes(make_mnist_arrays()[0]), make_idx_bytes(make_mnist_arrays()[1])
    )
    (tmp_path / "mnist" / "train-images-idx3-ubyte").chmod(0)
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte cannot be read: Permission denied$"
    ):
        read_split(data, "train", tmp_path)
