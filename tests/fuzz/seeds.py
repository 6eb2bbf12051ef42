"""The intact files that mutations start from: photographs, a run, weights, a cache, results."""

import os
import shutil
from pathlib import Path

import torch

from tests.fuzz.case import encode_noise
from tests.fuzz.oracle import run_command
from tests.third_party import ThirdPartyCifarResNet, randomize_weights

CLASSES = ("bird", "cat", "dog")
PHOTOS_PER_CLASS = 12
NETWORK = ["--model", "cifar-resnet8", "--size", "8", "--steps", "1"]
NORMAL = ["--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.3", "0.25"]


def make_seeds(folder):
    """Write the seeds into `folder`, in a child, so that this process stays without threads."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            write_seeds(Path(folder))
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"the seeds could not be made: {read_error(Path(folder))}")


def read_error(folder):
    path = folder / "home" / "stderr"
    return path.read_text() if path.exists() else "no message"


def write_seeds(folder):
    for name in ("home", "cache"):
        (folder / name).mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.chdir(folder)
    for label, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(PHOTOS_PER_CLASS):
            (folder / "photos" / name / f"{i:02}.png").write_bytes(encode_noise(100 * label + i))
    (folder / "one.png").write_bytes(encode_noise(999))
    run(folder, "train", "photos", *NETWORK, "--out", "run", "--precision", "fp32")
    torch.manual_seed(0)
    peer = randomize_weights(ThirdPartyCifarResNet(1, "A"))
    torch.save(peer.state_dict(), folder / "peer.pth")
    digits = ["--classes", *"abcdefghij"]
    run(
        folder, "convert", "peer.pth", "--model", "cifar-resnet8", *digits, *NORMAL, "--out", "peer"
    )
    predict = ["--json", "--engine", "torch", "--top", "10"]
    for model, result in (("run/last", "predict.json"), ("peer", "predict_peer.json")):
        (folder / result).write_text(run(folder, "predict", model, "one.png", *predict))
    shutil.rmtree(folder / "cache" / "residua" / "photos")  # so that the squares alone are left
    evaluated = run(folder, "evaluate", "run/last", "photos", "--split", "all", "--json")
    (folder / "evaluate.json").write_text(evaluated)
    shutil.copy(folder / "peer" / "model.safetensors", folder / "peer.safetensors")


def run(folder, *command):
    outcome = run_command(list(command), folder)
    assert outcome.code == 0, outcome.err
    return outcome.out
