import argparse
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from residua.errors import RecordError, UsageError
from residua.net.convert.state_dict import PICKLE_SUFFIXES, read_state_dict, write_state_dict

STATE = {
    "conv1.weight": torch.arange(6.0).reshape(2, 3),
    "bn1.running_var": torch.tensor([0.5, 2.0]),
}
AVERAGED_STATE = {name: tensor + 1 for name, tensor in STATE.items()}


class MaliciousPickle:
    """An object that runs a command in the process that unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


STATE_CONTAINERS = {
    "bare": STATE,
    "state_dict beside a best score": {
        "state_dict": OrderedDict(STATE),
        "best_prec1": np.float64(91.7),
        "epoch": np.int64(3),
    },
    "net beside a numpy bool and float": {
        "net": STATE,
        "acc": np.float32(0.9),
        "done": np.bool_(True),
    },
    "model beside arguments": {
        "model": STATE,
        "args": argparse.Namespace(lr=0.1, decay=np.float64(1e-4), nested=argparse.Namespace()),
    },
    "model_state_dict beside an optimiser's": {
        "model_state_dict": STATE,
        "optimizer_state_dict": {
            "state": {0: {"momentum_buffer": torch.zeros(2)}},
            "param_groups": [{"lr": 0.1}],
        },
        "losses": torch.zeros(9),
    },
    "an average before the plain one": {
        "ema": {"n_averaged": torch.tensor(2), **AVERAGED_STATE},
        "model": STATE,
    },
    "two deep": {"checkpoint": {"state_dict": STATE}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("container", STATE_CONTAINERS)
def test_tensors_are_found_in_any_container(tmp_path, container, zipped):
    torch.save(
        STATE_CONTAINERS[container], tmp_path / "x.pth", _use_new_zipfile_serialization=zipped
    )
    assert states_equal(read_state_dict(tmp_path / "x.pth"), STATE)


def test_averaged_weights_are_read_when_they_are_the_only_ones(tmp_path):
    torch.save({"model_ema": AVERAGED_STATE, "epoch": 3}, tmp_path / "x.pth")
    assert states_equal(read_state_dict(tmp_path / "x.pth"), AVERAGED_STATE)


@pytest.mark.parametrize("suffix", [".safetensors", *PICKLE_SUFFIXES])
def test_written_weights_are_read_back(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_state_dict({"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}, path)
    assert states_equal(
        read_state_dict(path), {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_unknown_file_suffix_is_refused(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"x.h5 has an unknown file format: use .safetensors, .pth, .th, .pt or .bin",
    ):
        write_state_dict(STATE, tmp_path / "x.h5")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(tmp_path, zipped):
    content = {"state_dict": STATE, "extra": MaliciousPickle(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(RecordError) as refused:
        read_state_dict(tmp_path / "x.pth")
    assert str(refused.value) == (
        f"{tmp_path / 'x.pth'} was not loaded, for safety: reading it would run "
        f"{os.system.__module__}.system; give a "
        "state_dict, as torch.save(model.state_dict(), FILE) writes it"
    )
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pth").write_bytes(
            pickle.dumps({"state_dict": MaliciousPickle(tmp_path / "ran")}, protocol)
        )
        with pytest.raises(RecordError):
            read_state_dict(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_is_refused_with_the_fix(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(
        RecordError,
        match=r"would run torch.nn.modules.linear.Linear; .* torch.save\(model.state_dict\(\), "
        r"FILE\)",
    ):
        read_state_dict(tmp_path / "x.pth")


def test_a_file_without_tensors_is_reported(tmp_path):
    torch.save({"state_dict": {}, "losses": [1.0]}, tmp_path / "x.pth")
    with pytest.raises(RecordError, match=r"x.pth contains no named tensors"):
        read_state_dict(tmp_path / "x.pth")


def test_a_dictionary_that_contains_itself_is_read_once(tmp_path):
    content = {"state_dict": STATE}
    content["again"] = content
    torch.save(content, tmp_path / "x.pth")
    assert states_equal(read_state_dict(tmp_path / "x.pth"), STATE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.6, 0.9, -1])
def test_a_truncated_file_is_reported(tmp_path, suffix, kept):
    path = tmp_path / f"x{suffix}"
    write_state_dict(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(RecordError, match=r"is damaged or not"):
        read_state_dict(path)


def test_a_truncated_file_of_the_format_before_torch_1_6_is_reported(tmp_path):
    path = tmp_path / "x.th"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(RecordError, match=r"x.th is damaged or not written by torch.save"):
            read_state_dict(path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_text_file_is_reported(tmp_path, name):
    (tmp_path / name).write_text("these are no weights\n" * 9)
    with pytest.raises(RecordError, match=rf"{name} is damaged or not"):
        read_state_dict(tmp_path / name)


def test_a_missing_file_is_reported():
    with pytest.raises(RecordError, match=r"there is no file nowhere.pth"):
        read_state_dict(Path("nowhere.pth"))
