"""Kill a run at random moments, resume it each time, and compare its last weights and measurements with an undisturbed run's.

python experiments/kills/kills.py --kills 30 --out runs/kills
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

TRAIN = [
    "train",
    "digits",
    "--model",
    "cifar-resnet20,join=drop-path",
    "--recipe",
    "he2016",
    "--save-every",
    "25",
]


def command(folder: Path, steps: int, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "residua",
        *TRAIN,
        "--steps",
        str(steps),
        "--out",
        str(folder),
        *more,
    ]


def step_of(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    whole, parts = arguments.out / "whole", arguments.out / "parts"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command(whole, arguments.steps), check=True, **quiet)

    moments, killed_at = random.Random(arguments.seed), []
    for _ in tqdm(range(arguments.kills), desc="kills"):
        begun = step_of(parts)
        process = subprocess.Popen(command(parts, arguments.steps, "--resume"), **quiet)
        while (
            step_of(parts) <= begun and process.poll() is None
        ):  # at least one checkpoint further each time, so that it ends
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at.append(step_of(parts))
    subprocess.run(command(parts, arguments.steps, "--resume"), check=True, **quiet)

    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (parts, whole))
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (folder / "metrics.jsonl").open()
        ]
        for folder in (parts, whole)
    ]
    result = {
        "kills": len(killed_at),
        "newest_checkpoint_at_each": killed_at,
        "steps": arguments.steps,
        "tensors": len(theirs),
        "bits_equal": ours.keys() == theirs.keys()
        and all(ours[name].equal(theirs[name]) for name in theirs),
        "measurements_equal": lines[0] == lines[1],
        "environment": json.loads((whole / "run.json").read_text())["environment"]
        | {"python": platform.python_version()},
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
