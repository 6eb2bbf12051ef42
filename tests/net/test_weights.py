import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from residua.errors import RecordError, UsageError
from residua.net.weights import PICKLES, read_state, write_state

STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.running_var": torch.tensor([0.5, 2.0])}
AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


class Poison:
    """What runs a command in whoever unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


CONTAINERS = {
    "bare": STATE,
    "state_dict beside a best score": {"state_dict": OrderedDict(STATE), "best_prec1": np.float64(91.7), "epoch": np.int64(3)},
    "net beside a numpy bool and float": {"net": STATE, "acc": np.float32(0.9), "done": np.bool_(True)},
    "model beside arguments": {
        "model": STATE,
        "args": argparse.Namespace(lr=0.1, decay=np.float64(1e-4), nested=argparse.Namespace()),
    },
    "model_state_dict beside an optimiser's": {
        "model_state_dict": STATE,
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "losses": torch.zeros(9),
    },
    "an average before the plain one": {"ema": {"n_averaged": torch.tensor(2), **AVERAGED}, "model": STATE},
    "two deep": {"checkpoint": {"state_dict": STATE}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_are_found_in_whatever_container_they_lie(tmp_path, container, zipped):
    torch.save(CONTAINERS[container], tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_state(tmp_path / "x.pth"), STATE)


def test_an_average_alone_is_read(tmp_path):
    torch.save({"model_ema": AVERAGED, "epoch": 3}, tmp_path / "x.pth")
    assert same(read_state(tmp_path / "x.pth"), AVERAGED)


@pytest.mark.parametrize("suffix", [".safetensors", *PICKLES])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_state({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}, path)
    assert same(read_state(path), {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_suffix_that_says_no_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"x.h5 says no format: end it in .safetensors, .pth, .th, .pt or .bin"):
        write_state(STATE, tmp_path / "x.h5")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_that_asks_to_run_code_is_refused_and_nothing_runs(tmp_path, zipped):
    content = {"state_dict": STATE, "extra": Poison(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(RecordError) as refused:
        read_state(tmp_path / "x.pth")
    assert str(refused.value) == (
        f"{tmp_path / 'x.pth'} asks to run {os.system.__module__}.system when it is read, which was refused: what is wanted is a "
        "state_dict, as torch.save(model.state_dict(), FILE) writes it"
    )
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_that_asks_to_run_code_is_refused_and_nothing_runs(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pth").write_bytes(pickle.dumps({"state_dict": Poison(tmp_path / "ran")}, protocol))
        with pytest.raises(RecordError):
            read_state(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_is_refused_with_the_fix(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(
        RecordError, match=r"asks to run torch.nn.modules.linear.Linear .* torch.save\(model.state_dict\(\), FILE\)"
    ):
        read_state(tmp_path / "x.pth")


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save({"state_dict": {}, "losses": [1.0]}, tmp_path / "x.pth")
    with pytest.raises(RecordError, match=r"x.pth holds no named tensors"):
        read_state(tmp_path / "x.pth")


def test_a_dictionary_that_holds_itself_is_read_once(tmp_path):
    content = {"state_dict": STATE}
    content["again"] = content
    torch.save(content, tmp_path / "x.pth")
    assert same(read_state(tmp_path / "x.pth"), STATE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.6, 0.9, -1])
def test_a_truncated_file_is_named(tmp_path, suffix, kept):
    path = tmp_path / f"x{suffix}"
    write_state(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(RecordError, match=r"is damaged, or no"):
        read_state(path)


def test_a_file_from_before_torch_1_6_is_named_wherever_it_is_cut(tmp_path):
    path = tmp_path / "x.th"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(RecordError, match=r"x.th is damaged, or no file of torch.save"):
            read_state(path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_text_is_named(tmp_path, name):
    (tmp_path / name).write_text("these are no weights\n" * 9)
    with pytest.raises(RecordError, match=rf"{name} is damaged, or no"):
        read_state(tmp_path / name)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(RecordError, match=r"there is no file nowhere.pth"):
        read_state(Path("nowhere.pth"))
