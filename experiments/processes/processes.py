"""Train a run by one process, by two, and by two of which one is killed now and then; compare weights and measurements.

python experiments/processes/processes.py --kills 10 --out runs/processes
"""

import argparse
import json
import os
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
    "cifar-resnet20",
    "--recipe",
    "he2016",
    "--precision",
    "fp32",
    "--save-every",
    "25",
]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def command(folder: Path, steps: int, processes: int, restarts: int = 0, *more: str) -> list[str]:
    start = ["-m", "residua"]
    if processes > 1:
        options = [
            "--standalone",
            f"--nproc-per-node={processes}",
            f"--max-restarts={restarts}",
            "--monitor-interval=0.1",
        ]
        start = ["-m", "torch.distributed.run", *options, *start]
    return [sys.executable, *start, *TRAIN, "--steps", str(steps), "--out", str(folder), *more]


def step_of(folder: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def workers(torchrun: int) -> list[int]:
    """Processes that torchrun has started."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"residua" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def killed_now_and_then(
    folder: Path, steps: int, kills: int, moments: random.Random
) -> list[dict[str, int]]:
    """Train by two processes; after each checkpoint or more, at a random moment, one of them is killed."""
    told = []
    process = subprocess.Popen(command(folder, steps, 2, kills), **QUIET)
    for _ in tqdm(range(kills), desc="kills"):
        begun = step_of(folder)
        while step_of(folder) <= begun and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        if process.poll() is not None:
            break
        rank = moments.randrange(2)
        pids = workers(process.pid)
        if len(pids) == 2:
            told.append({"process": rank, "newest_checkpoint": step_of(folder)})
            os.kill(pids[rank], signal.SIGKILL)
    if process.wait():
        raise SystemExit("torchrun failed")
    return told


def lines(folder: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / "metrics.jsonl").open()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    one, two, few, killed = (
        arguments.out / name for name in ("one", "two", "one-10-steps", "killed")
    )
    few_by_two = arguments.out / "two-10-steps"
    for folder, processes in ((one, 1), (two, 2)):
        subprocess.run(command(folder, arguments.steps, processes), check=True, **QUIET)
    for folder, processes in (
        (few, 1),
        (few_by_two, 2),
    ):  # at a low rate, for a high one makes much of a rounding at the start
        subprocess.run(
            command(folder, 10, processes, 0, "--set", "schedule.lr=0.001"), check=True, **QUIET
        )
    kills = killed_now_and_then(
        killed, arguments.steps, arguments.kills, random.Random(arguments.seed)
    )

    weights = {
        folder: load_file(folder / "last" / "model.safetensors")
        for folder in (two, few, few_by_two, killed)
    }
    trained = [name for name in weights[few] if name.endswith(("weight", "bias"))]
    results = {
        folder: json.loads((folder / "run.json").read_text())["result"] for folder in (one, two)
    }
    result = {
        "steps": arguments.steps,
        "largest_difference_of_weights_after_10_steps": max(
            (weights[few][name] - weights[few_by_two][name]).abs().max().item() for name in trained
        ),
        "largest_weight_after_10_steps": max(
            weights[few][name].abs().max().item() for name in trained
        ),
        "test_error_by_one": results[one]["test_error"],
        "test_error_by_two": results[two]["test_error"],
        "kills": kills,
        "bits_equal_with_kills": all(
            weights[killed][name].equal(weights[two][name]) for name in weights[two]
        ),
        "measurements_equal_with_kills": lines(killed) == lines(two),
        "environment": json.loads((two / "run.json").read_text())["environment"],
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
