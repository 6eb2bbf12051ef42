"""Triton's interpreter, which runs kernels on CPU tensors, mended where Triton 3.6 is wrong."""

import os

import torch


def mend_triton_interpreter():
    """Make interpreted kernels compute what compiled ones compute.

    Numbers are rounded to the nearest bf16, where Triton cuts bits off.  Matrices of bf16 are
    multiplied as numbers, where Triton multiplies their bits.  Loops may have bounds that are known
    only at run time: Triton converts an array of one element by `int`, which NumPy 2.4 refuses.
    The variable TRITON_INTERPRET must be 1 before anything imports triton.
    """
    assert os.environ["TRITON_INTERPRET"] == "1"
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    patch_tensor, convert_float = interpreter._patch_lang_tensor, interpreter._convert_float

    def patch_tensor_and_index(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def convert_and_round_float(values, old, new, rounding):
        if (old, new) == (tl.float32, tl.bfloat16):
            return torch.tensor(values).bfloat16().view(torch.uint16).numpy()
        if (old, new) == (tl.bfloat16, tl.float32):
            return torch.tensor(values).view(torch.bfloat16).float().view(torch.uint32).numpy()
        return convert_float(values, old, new, rounding)

    def multiply_matrices(self, a, b, total, *_):
        def read(block):
            if block.dtype.scalar != tl.bfloat16:
                return block.data
            return convert_and_round_float(block.data, tl.bfloat16, tl.float32, None).view("f4")

        product = np.matmul(read(a), read(b), dtype=total.data.dtype) + total.data
        return interpreter.TensorHandle(product, total.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = multiply_matrices
    interpreter._patch_lang_tensor = patch_tensor_and_index
    interpreter._convert_float = convert_and_round_float
