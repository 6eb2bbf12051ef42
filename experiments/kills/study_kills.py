"""Kill a study with its workers at random moments, restart it, and compare it with an intact one.

    python experiments/kills/study_kills.py --kills 8 --out runs/study-kills

The comparison covers weights, measurements and results; only times may differ.
"""

import argparse
import json
import os
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

STUDY_OPTIONS = [
    "study",
    "--families",
    "plain",
    "resnet,join=drop-path",
    "--depths",
    "8",
    "14",
    "--seeds",
    "0",
    "1",
    "--workers",
    "2",
]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
TIME_KEYS = ("seconds", "seconds_sd", "seconds_ci", "images_per_second")


def make_study_command(folder: Path, steps: int) -> list[str]:
    """The command line that trains the study in `folder`."""
    options = [*STUDY_OPTIONS, "--steps", str(steps), "--out", str(folder)]
    return [sys.executable, "-m", "residua", *options]


def remove_times(value: object) -> object:
    """A JSON value without the entries that measure time."""
    if isinstance(value, dict):
        return {name: remove_times(part) for name, part in value.items() if name not in TIME_KEYS}
    return [remove_times(part) for part in value] if isinstance(value, list) else value


def count_begun_and_finished(folder: Path) -> tuple[int, int]:
    """The numbers of runs of a study that have begun and that have finished."""
    records = [json.loads(path.read_text()) for path in folder.glob("runs/*/run.json")]
    return len(records), sum(record["result"] is not None for record in records)


def list_record_sizes(folder: Path) -> list[tuple[str, int]]:
    """The files of all records of a study with their sizes, to notice progress."""
    return sorted((str(path), path.stat().st_size) for path in folder.glob("runs/*/*.json*"))


def start_and_kill(folder: Path, steps: int, delay_seconds: float) -> bool:
    """Start the study and kill its process group `delay_seconds` after it first writes something.

    Returns False if the study finished before.
    """
    before = list_record_sizes(folder)
    process = subprocess.Popen(make_study_command(folder, steps), start_new_session=True, **QUIET)
    while process.poll() is None and list_record_sizes(folder) == before:
        time.sleep(0.05)
    try:
        process.wait(timeout=delay_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def kill_repeatedly(
    folder: Path, steps: int, kills: int, max_delay_seconds: float, seed: int
) -> list[dict[str, float]]:
    """Start and kill the study up to `kills` times; returns what was done at each kill."""
    moments, facts = random.Random(seed), []
    for _ in tqdm(range(kills), desc="kills"):
        delay_seconds = moments.uniform(0, max_delay_seconds)
        if not start_and_kill(folder, steps, delay_seconds):
            break
        begun, finished = count_begun_and_finished(folder)
        facts.append(
            {
                "seconds_from_first_news": round(delay_seconds, 1),
                "runs_begun": begun,
                "runs_finished": finished,
            }
        )
    return facts


def have_equal_weights(run: Path, other_run: Path) -> bool:
    """Whether the last weights of two runs are bit-identical."""
    weights, other_weights = (
        load_file(folder / "last" / "model.safetensors") for folder in (run, other_run)
    )
    return weights.keys() == other_weights.keys() and all(
        weights[name].equal(other_weights[name]) for name in other_weights
    )


def read_metrics_without_time(run: Path) -> list[object]:
    """The rows of metrics.jsonl without times."""
    return [remove_times(json.loads(line)) for line in (run / "metrics.jsonl").open()]


def compare_studies(killed: Path, undisturbed: Path) -> dict[str, object]:
    """How many runs of the killed study equal those of the undisturbed one."""
    names = sorted(path.name for path in (undisturbed / "runs").iterdir())
    pairs = [(killed / "runs" / name, undisturbed / "runs" / name) for name in names]
    results, expected_results = (
        remove_times(json.loads((folder / "results.json").read_text()))
        for folder in (killed, undisturbed)
    )
    first_record = json.loads((pairs[0][1] / "run.json").read_text())
    return {
        "weights_bits_equal": sum(have_equal_weights(*pair) for pair in pairs),
        "measurements_equal": sum(
            read_metrics_without_time(run) == read_metrics_without_time(expected)
            for run, expected in pairs
        ),
        "results_equal": results == expected_results,
        "environment": first_record["environment"] | {"python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=8, help="how often to kill (default: 8)")
    parser.add_argument("--steps", type=int, default=150, help="steps per run (default: 150)")
    parser.add_argument(
        "--longest",
        type=float,
        default=4,
        help="maximum seconds between the first written record and a kill (default: 4)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the two studies")
    arguments = parser.parse_args()
    undisturbed, killed = arguments.out / "whole", arguments.out / "parts"
    subprocess.run(make_study_command(undisturbed, arguments.steps), check=True, **QUIET)
    kills = kill_repeatedly(
        killed, arguments.steps, arguments.kills, arguments.longest, arguments.seed
    )
    subprocess.run(make_study_command(killed, arguments.steps), check=True, **QUIET)

    result = {
        "kills": kills,
        "runs": len(list((undisturbed / "runs").iterdir())),
        "steps": arguments.steps,
        **compare_studies(killed, undisturbed),
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "study_result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
