"""Kill a whole study, its workers with it, at random moments, start it again each time, and compare it with an undisturbed one.

python experiments/kills/study_kills.py --kills 8 --out runs/study-kills
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

STUDY = [
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
CLOCKS = ("seconds", "seconds_sd", "seconds_ci")  # the only numbers that may differ


def command(folder: Path, steps: int) -> list[str]:
    return [sys.executable, "-m", "residua", *STUDY, "--steps", str(steps), "--out", str(folder)]


def without_clocks(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: without_clocks(part)
            for name, part in value.items()
            if name not in (*CLOCKS, "images_per_second")
        }
    return [without_clocks(part) for part in value] if isinstance(value, list) else value


def begun_and_finished(folder: Path) -> tuple[int, int]:
    heads = [json.loads(head.read_text()) for head in folder.glob("runs/*/run.json")]
    return len(heads), sum(head["result"] is not None for head in heads)


def measured(folder: Path) -> list[tuple[str, int]]:
    """What a study has written so far: its records' files and their sizes."""
    return sorted((str(path), path.stat().st_size) for path in folder.glob("runs/*/*.json*"))


def killed(folder: Path, steps: int, after: float) -> bool:
    """Start the study, kill its whole process group `after` seconds from its first news, and say whether it was still at work."""
    before = measured(folder)
    process = subprocess.Popen(command(folder, steps), start_new_session=True, **QUIET)
    while process.poll() is None and measured(folder) == before:
        time.sleep(0.05)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def bits_equal(one: Path, two: Path) -> bool:
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (one, two))
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in theirs)


def lines(run: Path) -> list[object]:
    return [without_clocks(json.loads(line)) for line in (run / "metrics.jsonl").open()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument(
        "--longest", type=float, default=4, help="seconds from the first news to a kill, at most"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    whole, parts = arguments.out / "whole", arguments.out / "parts"
    subprocess.run(command(whole, arguments.steps), check=True, **QUIET)

    moments, kills = random.Random(arguments.seed), []
    for _ in tqdm(range(arguments.kills), desc="kills"):
        after = moments.uniform(0, arguments.longest)
        if not killed(parts, arguments.steps, after):
            break  # it had ended before
        begun, finished = begun_and_finished(parts)
        kills.append(
            {
                "seconds_from_first_news": round(after, 1),
                "runs_begun": begun,
                "runs_finished": finished,
            }
        )
    subprocess.run(command(parts, arguments.steps), check=True, **QUIET)

    names = sorted(path.name for path in (whole / "runs").iterdir())
    results = [
        without_clocks(json.loads((folder / "results.json").read_text()))
        for folder in (parts, whole)
    ]
    result = {
        "kills": kills,
        "runs": len(names),
        "steps": arguments.steps,
        "weights_bits_equal": [
            bits_equal(parts / "runs" / name, whole / "runs" / name) for name in names
        ].count(True),
        "measurements_equal": [
            lines(parts / "runs" / name) == lines(whole / "runs" / name) for name in names
        ].count(True),
        "results_equal": results[0] == results[1],
        "environment": json.loads((whole / "runs" / names[0] / "run.json").read_text())[
            "environment"
        ]
        | {"python": platform.python_version()},
        "residua": version("residua"),
    }
    print(json.dumps(result, indent=2))
    (arguments.out / "study_result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
