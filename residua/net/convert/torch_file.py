"""Read the tensors of a file that torch.save wrote: a zip archive or, before torch 1.6, a stream.

torch.load neither checks the checksums of the archive, so that a damaged file gives other weights,
nor bounds the memory that a file asks for.  Here the tensors are chosen first, then their size is
compared with that of the file, and only then are their numbers read.
"""

import sys
from collections import deque
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor

from residua.net.convert.pickle_reader import PickleReader
from residua.net.convert.pickled_values import (
    NOT_DENSE,
    STATE_DICT_HINT,
    PickledDict,
    PickledStorage,
    PickledTensor,
    UnusableFileError,
)

ZIP_START, STREAM_MAGIC = b"PK\x03\x04", 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 2**26  # of the description of all tensors; 1,202 layers need 1 MB
MAX_GROWTH = 16  # times its size that a file may take in memory; weights compress less than that
MAX_WEIGHT_BYTES = 2**34  # that a file may take in memory: 16 GiB; our choice
MAX_TENSORS, MAX_NESTING = 200_000, 32

StateDict = dict[str, Tensor]
PickledStateDict = dict[str, PickledTensor | None]  # None stands for a tensor that is not dense


class TorchFile(NamedTuple):
    """What a file describes, and a function that reads the numbers of a storage."""

    content: object
    read_storage: Callable[[PickledStorage], bytes]


def read_torch_file(file: BinaryIO) -> StateDict:
    """Read the named tensors of an open file of torch.save; {} if it has none.

    Dictionaries may be nested.  Tensors that are not dense are returned as empty meta tensors.
    Raises UnusableFileError if the file cannot be used, or any exception if it is damaged.
    """
    is_zip = file.read(len(ZIP_START)) == ZIP_START
    file_bytes = file.seek(0, 2)
    file.seek(0)
    torch_file = open_archive(ZipFile(file)) if is_zip else open_stream(file, file_bytes)
    state_dict = choose_state_dict(torch_file.content)
    refuse_inflated_tensors(state_dict, file_bytes)
    state, storages = StateDict(), dict[str, Tensor]()
    for name, tensor in state_dict.items():
        if tensor is None:
            state[name] = torch.empty(0, device="meta")
            continue
        key = tensor.storage.key
        if key not in storages:
            content = bytearray(torch_file.read_storage(tensor.storage))
            storages[key] = torch.frombuffer(content or bytearray(8), dtype=torch.uint8)
        state[name] = view_storage(storages[key], tensor)
    return state


def open_archive(archive: ZipFile) -> TorchFile:
    """Read the description of the tensors in a zip archive, in which each storage is an entry."""
    entries = archive.infolist()
    folder = entries[0].filename.partition("/")[0]
    records = {entry.filename.removeprefix(f"{folder}/"): entry for entry in entries}
    if len(records) < len(entries):
        raise ValueError("an entry appears twice in the archive")
    if "constants.pkl" in records:
        raise UnusableFileError(f"holds a TorchScript program: {STATE_DICT_HINT}")
    if records["data.pkl"].file_size > MAX_PICKLE_BYTES:
        raise UnusableFileError(
            f"takes more than {MAX_PICKLE_BYTES:,} bytes to describe its tensors: {STATE_DICT_HINT}"
        )
    byteorder = read_entry(archive, records["byteorder"]) if "byteorder" in records else b"little"
    if byteorder != sys.byteorder.encode():
        raise UnusableFileError(
            "was written on a machine with a different byte order: save it again on this machine"
        )

    def read_storage(storage: PickledStorage) -> bytes:
        entry = records[f"data/{storage.key}"]
        if entry.file_size != storage.nbytes:
            raise ValueError("the size of a storage differs from its description")
        return read_entry(archive, entry)

    content = PickleReader().read(BytesIO(read_entry(archive, records["data.pkl"])))
    return TorchFile(content, read_storage)


def read_entry(archive: ZipFile, entry: ZipInfo) -> bytes:
    """Read an entry of an archive, and check its checksum."""
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others expand without bounds
        raise ValueError("an entry is compressed in a way that torch does not know")
    try:
        with archive.open(entry) as file:
            content = file.read(entry.file_size)  # without a number, it would expand all of it
    except BadZipFile as error:
        if "CRC-32" in str(error):
            raise UnusableFileError(
                f"is damaged: the checksum of its entry {entry.filename} does not match its content"
            ) from error
        raise
    if len(content) != entry.file_size:
        raise ValueError("an entry is shorter than the archive says")
    return content


def open_stream(file: BinaryIO, file_bytes: int) -> TorchFile:
    """Read the description of the tensors in a stream of five pickles, before the storages.

    Each storage consists of the number of its elements, as 8 bytes, and the elements.
    """
    pickles = BytesIO(file.read(MAX_PICKLE_BYTES))
    if PickleReader().read(pickles) != STREAM_MAGIC:
        raise ValueError("the file does not begin like one that torch.save writes")
    PickleReader().read(pickles)  # the version of the format
    PickleReader().read(pickles)  # sizes of numbers on the writing machine
    reader = PickleReader()
    content, keys = reader.read(pickles), PickleReader().read(pickles)
    position = pickles.tell()
    starts: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = reader.storages[key]
        if storage.dtype is None:
            raise UnusableFileError(f"holds quantised numbers: {STATE_DICT_HINT}")
        file.seek(position)
        if int.from_bytes(file.read(8), "little") * storage.dtype.itemsize != storage.nbytes:
            raise ValueError("the size of a storage differs from its description")
        starts[key] = position + 8
        position += 8 + storage.nbytes
    if position > file_bytes or not reader.storages.keys() <= starts.keys():
        raise ValueError("the file lacks a storage")

    def read_storage(storage: PickledStorage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.nbytes)

    return TorchFile(content, read_storage)


def choose_state_dict(content: object) -> PickledStateDict:
    """Choose the dictionary of weights among the nested dictionaries in `content`.

    It is the outermost one that has more than half as many tensors as the largest, and averaged
    weights (`ema`) are chosen only if there are no others.  Returns {} if there are no tensors.
    """
    state_dicts: list[tuple[bool, PickledStateDict]] = []
    queue, visited_ids = deque([(content, 0, False)]), set()
    while queue:
        value, depth, is_averaged = queue.popleft()
        if not isinstance(value, PickledDict) or id(value) in visited_ids:
            continue
        visited_ids.add(id(value))  # a pickled dictionary may contain itself
        if depth > MAX_NESTING:
            raise UnusableFileError(
                f"nests its dictionaries more than {MAX_NESTING} levels deep: {STATE_DICT_HINT}"
            )
        tensors: PickledStateDict = {}
        for key, item in value.pairs:
            if isinstance(item, PickledDict):
                queue.append((item, depth + 1, is_averaged or is_average(key)))
            elif isinstance(key, str) and isinstance(item, PickledTensor):
                tensors[key] = item
            elif isinstance(key, str) and item is NOT_DENSE:
                tensors[key] = None
        state_dicts.append((is_averaged, tensors))
    largest_size = max((len(tensors) for _, tensors in state_dicts), default=0)
    by_preference = sorted(state_dicts, key=lambda entry: entry[0])
    candidates = [tensors for _, tensors in by_preference if 2 * len(tensors) > largest_size]
    return next(iter(candidates), {})


def is_average(key: object) -> bool:
    return isinstance(key, str) and "ema" in key


def refuse_inflated_tensors(state_dict: PickledStateDict, file_bytes: int) -> None:
    """Raise UnusableFileError if the tensors need much more memory than the file's size."""
    if len(state_dict) > MAX_TENSORS:
        raise UnusableFileError(f"has more than {MAX_TENSORS:,} tensors: {STATE_DICT_HINT}")
    tensors = [tensor for tensor in state_dict.values() if tensor is not None]
    storage_bytes = {tensor.storage.key: tensor.storage.nbytes for tensor in tensors}
    needed = max(sum(storage_bytes.values()), sum(tensor.nbytes for tensor in tensors))
    if needed > min(MAX_GROWTH * file_bytes, MAX_WEIGHT_BYTES):
        raise UnusableFileError(
            f"asks for {needed:,} bytes of memory, but has only {file_bytes:,} bytes itself: "
            + STATE_DICT_HINT
        )


def view_storage(storage: Tensor, tensor: PickledTensor) -> Tensor:
    """View the bytes of a storage as a tensor."""
    whole_count = storage.numel() // tensor.dtype.itemsize * tensor.dtype.itemsize
    numbers = storage[:whole_count].view(tensor.dtype)
    return numbers.as_strided(tensor.shape, tensor.strides, tensor.offset)
