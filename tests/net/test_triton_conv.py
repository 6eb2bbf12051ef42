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


COMPILE_KERNELS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from residua.net.triton_conv_kernels import ProductShape, convolve, spread_gradient
from residua.net.triton_conv_weight_kernels import sum_weight_gradient

blocks = {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": 16, "BLOCK_R": 64, "TILES": 4, "STEPS": 4}
whole = {"WHOLE_KERNEL": True, "MIRROR": False, "moments": None}
options = {"S": ProductShape(32, 32, 32, 32, 16, 16, 3, 1), **blocks, **whole}
types = {"rows": "i32", "weight": "*fp32", "partial": "*fp32"}
for kernel in (convolve, spread_gradient, sum_weight_gradient):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in options else types.get(n, "*bf16") for n in names}
    constants = {(i,): options[n] for i, n in enumerate(names) if n in options}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in options}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_stages": 3})
    code = compiled.asm["ptx"]
    print(code.count("wgmma.mma_async"), code.count("cp.async.cg.shared.global"))
"""


def test_kernels_compile_without_a_gpu_to_matrix_instructions_and_copies_of_16_bytes(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_KERNELS],
        env=os.environ | {"PYTHONPATH": str(root), "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(int(count) > 0 for line in lines for count in line.split()), lines
