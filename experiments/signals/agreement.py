"""How well the null model foresees fresh networks: `python experiments/signals/agreement.py --out FILE NAME=DRAWS ...`.

Pixels and channels of one network are not independent, so errors are judged between draws: draw i has its own weights (seed i)
and its own 16 images of CIFAR-10's training part (from image 16 i on).  A unit agrees where the null model lies in the 95 %
confidence interval of the mean over draws by Student's t; 95 % of units should.
"""

import argparse
import json
import time
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from residua.analysis.random_walk import predict_initial_signals
from residua.analysis.signals import measure_signals
from residua.config.dataset import get_dataset
from residua.data.augment import normalise_pixels
from residua.data.read import Images, read_split
from residua.files import write_json
from residua.net.build import create_model

KEYS = ("clip_fraction", "survival", "mean", "variance")
BATCH = 16


def agreement(name: str, draws: int, images: Images) -> dict[str, object]:
    """Of so many fresh networks of that name: means over draws, standard errors and the null model's values, by stage."""
    data, began, found = get_dataset("cifar10"), time.process_time(), []
    for seed in range(draws):
        net, batch = create_model(name, seed=seed), images[slice(BATCH * seed, BATCH * (seed + 1))]
        measured = measure_signals(
            net, normalise_pixels(batch.pixels, data.mean, data.std), batch.labels
        )
        found.append([[getattr(unit, key) for unit in measured] for key in KEYS])
    foreseen = np.array(
        [[getattr(unit, key) for unit in predict_initial_signals(net.plan)] for key in KEYS]
    )
    mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / sqrt(draws)
    stages = np.array([unit.stage for unit in net.plan.units])
    by_stage = {
        f"stage{stage}": {
            key: [
                {
                    "unit": int(i - np.flatnonzero(stages == stage)[0]) + 1,
                    "measured": round(float(mean[k, i]), 4),
                    "standard_error": round(float(error[k, i]), 4),
                    "null": round(float(foreseen[k, i]), 4),
                }
                for i in np.flatnonzero(stages == stage)[[0, 1, 2, -1]]
            ]
            for k, key in enumerate(KEYS)
        }
        for stage in sorted(set(stages.tolist()))
    }
    exact = bool((mean[:2] == foreseen[:2]).all() and (np.ptp(found, 0)[:2] == 0).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (mean - foreseen) / error
    overall = {
        key: {
            "exactly_equal": exact,
            **(
                {}
                if exact
                else {
                    "rms_difference": round(
                        float(np.sqrt(np.mean((mean[k] - foreseen[k]) ** 2))), 5
                    ),
                    "greatest_difference": round(float(np.abs(mean[k] - foreseen[k]).max()), 5),
                    "within_95_percent": round(
                        float(np.mean(np.abs(t[k]) < student.ppf(0.975, draws - 1))), 3
                    ),
                }
            ),
        }
        for k, key in enumerate(KEYS[:2])
    }
    relative = {
        key: round(float(np.mean(mean[k] / foreseen[k])), 3) for k, key in enumerate(KEYS) if k > 1
    }
    return {
        "draws": draws,
        "cpu_seconds_a_draw": round((time.process_time() - began) / draws, 1),
        "overall": overall,
        "measured_over_null": relative,
        **by_stage,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="+", metavar="NAME=DRAWS")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    images = read_split(get_dataset("cifar10"), "train")
    path = arguments.out
    results = json.loads(path.read_text()) if path.exists() else {}
    for text in arguments.networks:
        name, _, draws = text.rpartition("=")
        results[name] = agreement(name, int(draws), images) | {
            "residua": version("residua"),
            "torch": torch.__version__,
        }
        write_json(path, results)
