"""Triton kernels on a CPU: imported before Triton, it makes Triton interpret them.

It mends what Triton 3.6 lacks: bf16 rounds to nearest as on a GPU, products of bf16 matrices are
of their values rather than their bits, and a scalar is read as NumPy 2.4 allows.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

convert_float = interpreter._convert_float
patch_tensor = interpreter._patch_lang_tensor


def widen(data):
    return (data.astype(np.uint32) << 16).view(np.float32)


def round_to_bf16(data):
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype(np.uint16)


def convert_float_as_a_gpu_does(data, from_type, to_type, rounding_mode):
    if (from_type, to_type) == (tl.bfloat16, tl.float32):
        return widen(data)
    if (from_type, to_type) == (tl.float32, tl.bfloat16):
        return round_to_bf16(data)
    return convert_float(data, from_type, to_type, rounding_mode)


def multiply_matrices(self, a, b, d, input_precision, max_num_imprecise_acc):
    a_data, b_data = (widen(t.data) if t.dtype.scalar == tl.bfloat16 else t.data for t in (a, b))
    product = np.matmul(a_data, b_data, dtype=d.data.dtype)
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def patch_tensor_and_index(tensor, scope):
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._convert_float = convert_float_as_a_gpu_does
interpreter._patch_lang_tensor = patch_tensor_and_index
interpreter.InterpreterBuilder.create_dot = multiply_matrices
