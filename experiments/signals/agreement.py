"""How well does the random-walk model predict the signals of new networks?

    python experiments/signals/agreement.py --out FILE NAME=DRAWS ...

Pixels and channels of one network are not independent, so standard errors are those between draws:
draw i has its own weights (seed i) and its own 16 training images of CIFAR-10 (from image 16 i on).
A unit agrees if the prediction is in the 95 % confidence interval of the mean over draws by
Student's t, which should hold for 95 % of the units.
"""

import argparse
import json
import time
from importlib.metadata import version
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student_t

from residua.analysis.random_walk import predict_initial_signals
from residua.analysis.signals import measure_signals
from residua.config.dataset import get_dataset
from residua.data.augment import normalise_pixels
from residua.data.images import Images
from residua.data.read import read_split
from residua.files import write_json
from residua.net.build import ResidualNetwork
from residua.net.create import create_model

KEYS = ("clip_fraction", "survival", "mean", "variance")
SHARE_COUNT = 2  # the first keys are shares in [0, 1]; mean and variance are compared by ratio
IMAGES_PER_DRAW = 16

Signals = NDArray[np.float64]


def measure_draw(net: ResidualNetwork, images: Images) -> list[list[float]]:
    """The signals of one network on one batch (keys, units)."""
    data = get_dataset("cifar10")
    pixels = normalise_pixels(images.pixels, data.mean, data.std)
    measured = measure_signals(net, pixels, images.labels)
    return [[getattr(unit, key) for unit in measured] for key in KEYS]


def measure_agreement(name: str, draws: int, images: Images) -> dict[str, object]:
    """Compare the mean over draws of new networks of that name with the prediction."""
    started, samples = time.process_time(), []
    for seed in range(draws):
        net = create_model(name, seed=seed)
        batch = images[slice(IMAGES_PER_DRAW * seed, IMAGES_PER_DRAW * (seed + 1))]
        samples.append(measure_draw(net, batch))
    predictions = predict_initial_signals(net.plan)
    predicted = np.array([[getattr(unit, key) for unit in predictions] for key in KEYS])
    mean, error = np.mean(samples, 0), np.std(samples, 0, ddof=1) / sqrt(draws)
    stages = np.array([unit.stage for unit in net.plan.units])
    shares = slice(0, SHARE_COUNT)
    is_exact = bool(
        (mean[shares] == predicted[shares]).all() and (np.ptp(samples, 0)[shares] == 0).all()
    )
    return {
        "draws": draws,
        "cpu_seconds_a_draw": round((time.process_time() - started) / draws, 1),
        "overall": {
            key: {
                "exactly_equal": is_exact,
                **({} if is_exact else summarize_shares(mean[k], error[k], predicted[k], draws)),
            }
            for k, key in enumerate(KEYS[:SHARE_COUNT])
        },
        "measured_over_null": {
            key: round(float(np.mean(mean[k] / predicted[k])), 3)
            for k, key in enumerate(KEYS)
            if k >= SHARE_COUNT
        },
        **{
            f"stage{stage}": summarize_stage(
                np.flatnonzero(stages == stage), mean, error, predicted
            )
            for stage in sorted(set(stages.tolist()))
        },
    }


def summarize_shares(
    mean: Signals, error: Signals, predicted: Signals, draws: int
) -> dict[str, float]:
    """The differences of one signal (units,) from its prediction."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (mean - predicted) / error
    critical_t = student_t.ppf(0.975, draws - 1)
    return {
        "rms_difference": round(float(np.sqrt(np.mean((mean - predicted) ** 2))), 5),
        "greatest_difference": round(float(np.abs(mean - predicted).max()), 5),
        "within_95_percent": round(float(np.mean(np.abs(t) < critical_t)), 3),
    }


def summarize_stage(
    units: NDArray[np.int64], mean: Signals, error: Signals, predicted: Signals
) -> dict[str, list[dict[str, float]]]:
    """All signals of the first three units and the last unit of a stage, by key."""
    return {
        key: [
            {
                "unit": int(i - units[0]) + 1,
                "measured": round(float(mean[k, i]), 4),
                "standard_error": round(float(error[k, i]), 4),
                "null": round(float(predicted[k, i]), 4),
            }
            for i in units[[0, 1, 2, -1]]
        ]
        for k, key in enumerate(KEYS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="+", metavar="NAME=DRAWS", help="a network and its number of draws"
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, which is extended")
    arguments = parser.parse_args()
    images = read_split(get_dataset("cifar10"), "train")
    path = arguments.out
    results = json.loads(path.read_text()) if path.exists() else {}
    for text in arguments.networks:
        name, _, draws = text.rpartition("=")
        results[name] = measure_agreement(name, int(draws), images) | {
            "residua": version("residua"),
            "torch": torch.__version__,
        }
        write_json(path, results)


if __name__ == "__main__":
    main()
