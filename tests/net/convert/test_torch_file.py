"""Files of torch.save: read as torch reads them, damage is detected, and memory is bounded."""

import collections
import io
import pickle
import random
import resource
import struct
import time
import zipfile
from argparse import Namespace
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from residua.errors import RecordError
from residua.net.convert.state_dict import read_state_dict
from tests.third_party import ThirdPartyCifarResNet, randomize_weights

STATE = ThirdPartyCifarResNet(1, "A").state_dict()
CONTENTS = {
    "weights": STATE,
    "parameters": {name: torch.nn.Parameter(tensor.float()) for name, tensor in STATE.items()},
    "half precision": {name: tensor.half() for name, tensor in STATE.items()},
    "views of one storage": dict(zip("abc", torch.arange(12.0).reshape(3, 4).T, strict=False)),
    "a transposed view from the middle": {"a": torch.arange(20.0)[4:16].reshape(3, 4).T},
    "one tensor under two names": dict.fromkeys("ab", torch.arange(3.0)),
    "empty tensors and single numbers": {"a": torch.zeros(0, 3), "b": torch.tensor(2.5)},
    "types without a storage class": {"a": torch.ones(3, dtype=torch.uint16)},
    "complex numbers and booleans": {"a": torch.tensor([1j]), "b": torch.tensor([True, False])},
    "what training scripts add": {
        "net": STATE,
        "args": Namespace(lr=np.float64(0.1)),
        "losses": np.arange(3.0),
        "seen": {1, 2},
        "fixed": frozenset([1]),
        "counts": collections.Counter("aab"),
        "lists": collections.defaultdict(list, {"a": [1]}),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "type": torch.float16,
        "large": 2**70,
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_is_read_as_torch_reads_it(tmp_path, case, protocol, zipped):
    path, content = tmp_path / "x.pth", CONTENTS[case]
    if case == "types without a storage class" and not zipped:
        pytest.skip("torch cannot write it")
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    theirs = torch.load(path, weights_only=False)
    theirs, ours = theirs.get("net", theirs), read_state_dict(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].stride() == tensor.stride()
        assert torch.equal(ours[name], tensor)


def test_a_compressed_archive_is_read(tmp_path):
    torch.save(STATE, tmp_path / "x.pth")
    rewrite_archive(tmp_path / "x.pth", zipfile.ZIP_DEFLATED)
    assert torch.equal(read_state_dict(tmp_path / "x.pth")["conv1.weight"], STATE["conv1.weight"])


def rewrite_archive(path, compression, changes=()):
    """Write an archive again, with another compression, and with some entries replaced."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | dict(changes)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("place", ["anywhere", "in the weights"])
def test_a_flipped_bit_never_changes_a_weight(tmp_path, place):
    path = tmp_path / "x.pth"
    torch.save(STATE, path)
    whole, chance = path.read_bytes(), random.Random(0)
    weights_start = whole.index(STATE["layer3.0.conv2.weight"].numpy().tobytes())
    for _ in range(60):
        damaged = bytearray(whole)
        weights_byte = chance.randrange(weights_start, weights_start + 4 * 36_864)
        byte = chance.randrange(len(whole)) if place == "anywhere" else weights_byte
        damaged[byte] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            tensors = read_state_dict(path)
        except RecordError as error:
            assert "x.pth is damaged" in str(error)
        else:  # of padding, dates or other fields that mean nothing
            assert place == "anywhere"
            assert tensors.keys() == STATE.keys()
            assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


def test_the_message_about_a_wrong_checksum_names_the_entry(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(STATE, path)
    place = path.read_bytes().index(STATE["conv1.weight"].numpy().tobytes())
    damaged = bytearray(path.read_bytes())
    damaged[place + 3] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(
        RecordError, match=r"x.pth is damaged: the checksum of its entry x/data/0 does not match"
    ):
        read_state_dict(path)


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_archive(path, pickled, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"data.pkl": pickled, "version": b"3", **entries}.items():
            archive.writestr(f"x/{name}", content)


def make_tensor_call(count, shape, strides):
    """A pickle of {"conv1.weight": a tensor} whose storage has `count` numbers."""
    storage = ("storage", torch.FloatStorage, "0", "cpu", count)

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return storage if value == "the storage" else None

    file = io.BytesIO()
    call = Call(torch._utils._rebuild_tensor_v2, "the storage", 0, shape, strides, False, {})
    Pickler(file, 2).dump({"conv1.weight": call})
    return file.getvalue()


def nest_dictionaries(depth):
    """A pickle of a dictionary inside a dictionary, and so on, with long keys."""
    key = b"X" + struct.pack("<I", 8) + b"k" * 8
    return b"\x80\x02" + (b"}" + key) * depth + b"}" + b"s" * depth + b"."


def double_tuples(depth):
    """A pickle of a dictionary whose key has 2^depth parts, although it takes few bytes."""
    doubled = b"".join(b"2\x86" for _ in range(depth))
    return b"\x80\x02}K\x01" + doubled + b"K\x01s."


def repeat_list(count):
    """A pickle that makes `count` dictionaries of one list of `count` pairs."""
    pair = b"K\x01K\x02\x86q\x02"
    pairs = b"]q\x01(" + pair + b"h\x02" * count + b"e0"
    call = b"ccollections\nOrderedDict\nq\x030" + b"h\x03h\x01\x85R0" * count
    return b"\x80\x02" + pairs + call + b"}."


def write_stream(path, content):
    """Write a file of the format before torch 1.6, with a given pickle of its content."""
    start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    pickles = [pickle.dumps(value, 2) for value in start]
    path.write_bytes(b"".join([*pickles, content, pickle.dumps([], 2)]))


WEIGHT_ZEROS = make_tensor_call(2**24, (2**24,), (1,))
BOMBS = {
    "a numpy type of two gigabytes": lambda path: torch.save(
        {"state_dict": {}, "x": Call(np.dtype, "V2000000000"), "y": np.float64(1)}, path
    ),
    "a numpy scalar of two gigabytes": lambda path: write_archive(
        path, pickle.dumps(Call(np.float64(0).__reduce__()[0], np.dtype("V2000000000"), b""), 2)
    ),
    "a bytearray of four gigabytes": lambda path: write_archive(
        path, pickle.dumps({"x": Call(bytearray, 4 * 10**9)}, 2)
    ),
    "a storage that the file lacks": lambda path: write_archive(path, WEIGHT_ZEROS),
    "a storage that the stream lacks": lambda path: write_stream(path, WEIGHT_ZEROS),
    "a storage of zeros, compressed": lambda path: write_archive(
        path, WEIGHT_ZEROS, **{"data/0": bytes(2**26)}
    ),
    "one number, repeated by a stride of 0": lambda path: write_archive(
        path, make_tensor_call(1, (10**10,), (0,)), **{"data/0": bytes(4)}
    ),
    "dictionaries inside each other": lambda path: write_archive(path, nest_dictionaries(40_000)),
    "dictionaries in a stream": lambda path: write_stream(path, nest_dictionaries(40_000)),
    "a key of 2^60 parts": lambda path: write_archive(path, double_tuples(60)),
    "a list that is copied again and again": lambda path: write_archive(path, repeat_list(30_000)),
    "millions of empty dictionaries": lambda path: write_archive(
        path, b"\x80\x02" + b"}" * 2_000_000 + b"."
    ),
    "a description of 64 MiB": lambda path: write_archive(path, bytes(2**26 + 1)),
    "a memo entry at the largest index": lambda path: write_archive(
        path, b"\x80\x02}r\xff\xff\xff\xff."
    ),
    "a text that is longer than the file": lambda path: write_archive(
        path, b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx."
    ),
    "a header of safetensors of a terabyte": lambda path: path.write_bytes(
        struct.pack("<Q", 2**40) + b"{}"
    ),
}


@contextmanager
def memory_limit(extra_bytes):
    """Let this process take at most `extra_bytes` of address space more than it has."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("case", BOMBS)
def test_a_file_that_asks_for_much_memory_is_refused_in_little_time_and_memory(tmp_path, case):
    path = tmp_path / ("x.safetensors" if "safetensors" in case else "x.pth")
    BOMBS[case](path)
    start = time.perf_counter()
    with memory_limit(2**28), pytest.raises(RecordError) as refused:
        read_state_dict(path)
    assert not isinstance(refused.value.__cause__, MemoryError)
    assert time.perf_counter() - start < 10
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value)) < 300


def test_a_file_says_how_much_memory_it_asks_for(tmp_path):
    BOMBS["one number, repeated by a stride of 0"](tmp_path / "x.pth")
    size = (tmp_path / "x.pth").stat().st_size
    with pytest.raises(
        RecordError,
        match=f"x.pth asks for 40,000,000,000 bytes of memory, but has only {size} bytes itself: "
        r"give a state_dict, as torch.save\(model.state_dict\(\), FILE\) writes it",
    ):
        read_state_dict(tmp_path / "x.pth")


def test_a_storage_larger_than_the_archive_says_is_read_no_further(tmp_path):
    path = tmp_path / "x.pth"
    write_archive(path, make_tensor_call(4, (4,), (1,)), **{"data/0": bytes(2**26)})
    content = path.read_bytes()
    # in the directory at its end, the archive says that the entry has 16 bytes
    place = content.rindex(struct.pack("<I", 2**26))
    path.write_bytes(content[:place] + struct.pack("<I", 16) + content[place + 4 :])
    with memory_limit(2**25), pytest.raises(RecordError, match=r"x.pth is damaged"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["x" * 501, "conv1\n.weight", "conv1\ud800.weight"])
def test_a_name_that_cannot_be_printed_on_a_line_is_refused(tmp_path, name):
    torch.save({name: torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(
        RecordError, match=r"has a tensor whose name is longer than 500 characters or cannot be"
    ):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_recognised(tmp_path):
    torch.jit.script(randomize_weights(torch.nn.Linear(2, 2))).save(str(tmp_path / "x.pth"))
    with pytest.raises(RecordError, match=r"x.pth holds a TorchScript program: give a state_dict"):
        read_state_dict(tmp_path / "x.pth")
