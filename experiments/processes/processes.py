"""Train a run in one process, in two, and in two of which one is killed now and then; compare.

    python experiments/processes/processes.py --kills 10 --out runs/processes

The comparison covers weights, measurements and test errors.
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
from torch import Tensor
from tqdm import tqdm

TRAIN_OPTIONS = [
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
MAX_DELAY_SECONDS = 0.5  # between a new checkpoint and a kill
SHORT_STEPS = 10
LOW_LR = "schedule.lr=0.001"  # a high rate amplifies rounding differences of the first steps


def make_train_command(
    folder: Path, steps: int, processes: int, restarts: int = 0, *more: str
) -> list[str]:
    """The command line that trains the run in `folder`, by torchrun if there are two processes."""
    start = ["-m", "residua"]
    if processes > 1:
        torchrun_options = [
            "--standalone",
            f"--nproc-per-node={processes}",
            f"--max-restarts={restarts}",
            "--monitor-interval=0.1",
        ]
        start = ["-m", "torch.distributed.run", *torchrun_options, *start]
    options = [*TRAIN_OPTIONS, "--steps", str(steps), "--out", str(folder), *more]
    return [sys.executable, *start, *options]


def find_newest_checkpoint(folder: Path) -> int:
    """The step of the newest checkpoint of a run; 0 without one."""
    return max((int(path.stem[5:]) for path in folder.glob("checkpoints/step-*")), default=0)


def list_worker_pids(torchrun_pid: int) -> list[int]:
    """The ids of the training processes that torchrun has started."""
    children = Path(f"/proc/{torchrun_pid}/task/{torchrun_pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"residua" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def train_with_kills(
    folder: Path, steps: int, kills: int, moments: random.Random
) -> list[dict[str, int]]:
    """Train in two processes, and kill one of them at a random moment after a new checkpoint.

    Returns the killed process and the newest checkpoint of each kill.
    """
    facts = []
    process = subprocess.Popen(make_train_command(folder, steps, 2, kills), **QUIET)
    for _ in tqdm(range(kills), desc="kills"):
        first_checkpoint = find_newest_checkpoint(folder)
        while find_newest_checkpoint(folder) <= first_checkpoint and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, MAX_DELAY_SECONDS))
        if process.poll() is not None:
            break
        rank = moments.randrange(2)
        pids = list_worker_pids(process.pid)
        if len(pids) == 2:
            facts.append({"process": rank, "newest_checkpoint": find_newest_checkpoint(folder)})
            os.kill(pids[rank], signal.SIGKILL)
    if process.wait():
        raise SystemExit("torchrun failed")
    return facts


def read_metrics_without_time(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl without `seconds`."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (folder / "metrics.jsonl").open()
    ]


def load_last_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "last" / "model.safetensors")


def compare_short_runs(single: Path, double: Path) -> dict[str, float]:
    """The largest difference of trained weights between two short runs, and the largest weight."""
    weights, other_weights = load_last_weights(single), load_last_weights(double)
    trained = [name for name in weights if name.endswith(("weight", "bias"))]
    differences = [(weights[name] - other_weights[name]).abs().max().item() for name in trained]
    return {
        "largest_difference_of_weights_after_10_steps": max(differences),
        "largest_weight_after_10_steps": max(weights[name].abs().max().item() for name in trained),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default: 10)")
    parser.add_argument("--steps", type=int, default=600, help="steps (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    arguments = parser.parse_args()
    single, double, killed = (arguments.out / name for name in ("one", "two", "killed"))
    short_single, short_double = arguments.out / "one-10-steps", arguments.out / "two-10-steps"
    for folder, processes in ((single, 1), (double, 2)):
        command = make_train_command(folder, arguments.steps, processes)
        subprocess.run(command, check=True, **QUIET)
    for folder, processes in ((short_single, 1), (short_double, 2)):
        command = make_train_command(folder, SHORT_STEPS, processes, 0, "--set", LOW_LR)
        subprocess.run(command, check=True, **QUIET)
    kills = train_with_kills(
        killed, arguments.steps, arguments.kills, random.Random(arguments.seed)
    )

    single_record, double_record = (
        json.loads((folder / "run.json").read_text()) for folder in (single, double)
    )
    weights, expected_weights = load_last_weights(killed), load_last_weights(double)
    result = {
        "steps": arguments.steps,
        **compare_short_runs(short_single, short_double),
        "test_error_by_one": single_record["result"]["test_error"],
        "test_error_by_two": double_record["result"]["test_error"],
        "kills": kills,
        "bits_equal_with_kills": all(
            weights[name].equal(expected_weights[name]) for name in expected_weights
        ),
        "measurements_equal_with_kills": read_metrics_without_time(killed)
        == read_metrics_without_time(double),
        "environment": double_record["environment"],
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
