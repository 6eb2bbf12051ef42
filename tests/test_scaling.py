"""What binds training on many cards is computed as by hand, and the page shows what is computed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling import CardWork, Cluster, compute_all_reduce_seconds, compute_step

ROOT = Path(__file__).parents[1]
# two cards a machine: 1 GB/s and 1 ms between them, 0.5 GB/s and 10 ms between machines
CLUSTER = Cluster(2, 1e9, 1e-3, 5e8, 1e-2, cores_per_card=2, decode_rate_per_core=10)


def test_an_all_reduce_takes_the_time_that_a_hand_calculation_gives():
    """Of 1 GB: 2 x 1/2 x 1 s + 2 x 1 ms in a machine, 2 x 3/4 x 2 s + 4 x 10 ms between four."""
    assert compute_all_reduce_seconds(1e9, 1, CLUSTER) == 0
    assert compute_all_reduce_seconds(1e9, 2, CLUSTER) == pytest.approx(1.002)
    assert compute_all_reduce_seconds(1e9, 8, CLUSTER) == pytest.approx(1.002 + 3.04)


@pytest.mark.parametrize(
    ("images", "step_seconds", "cards", "seconds", "bound"),
    [
        (10, 2.0, 1, 2.0, "cards"),
        (10, 2.0, 2, 3.002, "cards"),
        (10, 2.0, 8, 2.0 + 4.042, "all-reduce"),
        (100, 2.0, 2, 5.0, "decoding"),  # 100 images at 2 x 10 a second
        (100, 2.0, 8, 6.042, "all-reduce"),
    ],
)
def test_a_step_waits_for_its_slowest_part(images, step_seconds, cards, seconds, bound):
    step = compute_step(CardWork(step_seconds, images, 1e9), cards, CLUSTER)
    assert step.seconds == pytest.approx(seconds)
    assert step.bound == bound
    assert step.efficiency == pytest.approx(step_seconds / seconds)
    assert step.images_per_second == pytest.approx(cards * images / seconds)


def test_the_page_shows_what_the_script_prints():
    page = (ROOT / "docs" / "scaling.md").read_text()
    [command] = re.findall(r"^python (benchmarks/scaling.py .*)$", page, re.MULTILINE)
    printed = subprocess.run(
        [sys.executable, *shlex.split(command)], cwd=ROOT, capture_output=True, check=True
    )
    assert printed.stdout.decode() in page
