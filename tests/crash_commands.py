"""Whole commands for `tests.crash_enumeration`, with real networks, figures and exports."""

import csv
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import load_file

from residua.cli.main import main
from residua.net.model_folder import load_model_folder
from residua.record import RunRecord
from residua.training.checkpoint import load_checkpoint
from tests.crash_scenarios import Scenario, do_nothing, write_photos
from tests.third_party import ThirdPartyCifarResNet

TRAIN = ("train", "digits", "--model", "cifar-resnet8", "--steps", "3", "--out", "./r")


def run_command(*words):
    """Run a command; it must succeed, or say that its work is done."""

    def act(folder):
        paths = [str(folder / word[2:]) if word.startswith("./") else word for word in words]
        with (
            open(os.devnull, "w") as nothing,
            redirect_stdout(nothing),
            redirect_stderr(nothing),
            mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache")}),
        ):
            code = main(paths)
        assert code in (0, 2), f"exit code {code}"

    return act


def read_tree(folder):
    """The names of all visible files in a folder, each of which must be whole."""
    names = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_visible = not any(part.startswith(".") or part == "matplotlib" for part in parts)
        if path.is_file() and is_visible:
            names.append("/".join(parts))
            read_whole_file(path)
    return tuple(names)


def read_whole_file(path):
    match path.suffix:
        case ".json":
            json.loads(path.read_text())
        case ".jsonl" if path.name == "metrics.jsonl":
            RunRecord(path.parent).read_metrics_so_far()
        case ".jsonl":
            assert path.read_text().endswith("\n")
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case ".svg":
            assert path.read_text().rstrip().endswith("</svg>")
        case ".csv":
            assert len({len(row) for row in csv.reader(path.open())}) == 1
        case ".png":
            Image.open(path).load()
        case ".safetensors" if path.name.startswith("step-"):
            load_checkpoint(path)
        case ".safetensors":
            load_model_folder(path.parent)
        case ".pt2":
            torch.export.load(path)


def read_run(folder):
    """Whether the run is finished, and its last weights; reading fails if anything is damaged."""
    read_tree(folder)
    record = RunRecord(folder / "r")
    if not record.run_json_path.exists() or record.read_result() is None:
        return "unfinished"
    weights = load_file(folder / "r" / "last" / "model.safetensors")
    return sum(tensor.double().sum().item() for tensor in weights.values())


def train_run(folder):
    run_command(*TRAIN)(folder)


def write_torch_file(folder):
    torch.save(ThirdPartyCifarResNet(1, "A").state_dict(), folder / "w.pth")


def train_study(folder):
    words = ("study", "--families", "plain", "resnet", "--depths", "8", "--steps", "2")
    run_command(*words, "--seeds", "0", "--out", "./s")(folder)


PIXELS = ("--mean", *["0.5"] * 3, "--std", *["0.25"] * 3)
CONVERT_OPTIONS = ("--model", "cifar-resnet8", "--classes", "cifar10", *PIXELS)

COMMANDS = [
    Scenario(f"residua {words[0]}", run_command(*words), read_state, prepare, between=None)
    for words, read_state, prepare in (
        ((*TRAIN, "--save-every", "1", "--resume"), read_run, do_nothing),
        (("evaluate", "./r", "digits", "--calibrate", "--out", "./e"), read_tree, train_run),
        (("export", "./r", "--to", "torch-export", "--out", "./e.pt2"), read_tree, train_run),
        (("convert", "./w.pth", *CONVERT_OPTIONS, "--out", "./m"), read_tree, write_torch_file),
        (("report", "./r"), read_tree, train_run),
        (("report", "./s", "--pack"), read_tree, train_study),
        (
            ("data", "check", "./photos", "--out", "./c", "--fix", "./f.csv"),
            read_tree,
            write_photos,
        ),
    )
]
