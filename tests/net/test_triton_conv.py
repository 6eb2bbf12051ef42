"""Convolutions in Triton, interpreted on a CPU, have the outputs and gradients of their equation.

Triton decides at its import whether it interprets, so that these tests need a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_interpreted_kernels_pass_the_tests_of_their_own_process():
    root = Path(__file__).parents[2]
    settings = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/net/interpreted_triton_conv.py"],
        cwd=root,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
