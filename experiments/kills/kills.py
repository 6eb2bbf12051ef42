"""Kill a run at random moments, resume it each time, and compare it with an undisturbed run.

    python experiments/kills/kills.py --kills 30 --out runs/kills

The comparison covers the last weights and all measurements but the time.
"""

import argparse
import json
import platform
import random
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file
from tqdm import tqdm

TRAIN_OPTIONS = [
    "train",
    "digits",
    "--model",
    "cifar-resnet20,join=drop-path",
    "--recipe",
    "he2016",
    "--save-every",
    "25",
]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
MAX_DELAY_SECONDS = 0.5  # between a new checkpoint and the kill


def make_train_command(folder: Path, steps: int, *more: str) -> list[str]:
    """The command line that trains the run in `folder`."""
    options = [*TRAIN_OPTIONS, "--steps", str(steps), "--out", str(folder), *more]
    return [sys.executable, "-m", "residua", *options]


def find_newest_checkpoint(folder: Path) -> int:
    """The step of the newest checkpoint of a run; 0 without one."""
    return max((int(path.stem[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def kill_repeatedly(folder: Path, steps: int, kills: int, seed: int) -> list[int]:
    """Start or resume the run and kill it, `kills` times; returns the newest checkpoint at each.

    Stops early if the run finishes.
    """
    moments, killed_at = random.Random(seed), []
    for _ in tqdm(range(kills), desc="kills"):
        first_checkpoint = find_newest_checkpoint(folder)
        process = subprocess.Popen(make_train_command(folder, steps, "--resume"), **QUIET)
        # Each session gets at least one checkpoint further, so that the run finishes at last.
        while find_newest_checkpoint(folder) <= first_checkpoint and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, MAX_DELAY_SECONDS))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(find_newest_checkpoint(folder))
    return killed_at


def read_metrics_without_time(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl without `seconds`."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (folder / "metrics.jsonl").open()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30, help="how often to kill (default: 30)")
    parser.add_argument("--steps", type=int, default=4000, help="steps (default: 4000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the two runs")
    arguments = parser.parse_args()
    undisturbed, killed = arguments.out / "whole", arguments.out / "parts"
    subprocess.run(make_train_command(undisturbed, arguments.steps), check=True, **QUIET)
    killed_at = kill_repeatedly(killed, arguments.steps, arguments.kills, arguments.seed)
    subprocess.run(make_train_command(killed, arguments.steps, "--resume"), check=True, **QUIET)

    weights, expected_weights = (
        load_file(folder / "last" / "model.safetensors") for folder in (killed, undisturbed)
    )
    environment = json.loads((undisturbed / "run.json").read_text())["environment"]
    result = {
        "kills": len(killed_at),
        "newest_checkpoint_at_each": killed_at,
        "steps": arguments.steps,
        "tensors": len(expected_weights),
        "bits_equal": weights.keys() == expected_weights.keys()
        and all(weights[name].equal(expected_weights[name]) for name in expected_weights),
        "measurements_equal": read_metrics_without_time(killed)
        == read_metrics_without_time(undisturbed),
        "environment": environment | {"python": platform.python_version()},
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
