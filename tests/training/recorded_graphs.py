"""A stand-in for CUDA graphs on a CPU: operators are recorded, and repeated on the same tensors."""

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from residua.training.cuda_graph import CudaGraphedCallable
from residua.training.machine import Machine
from residua.training.step import TrainingStep


class OperatorTape(TorchDispatchMode):
    """Records the operators of a call with the tensors that they read and write.

    As in the capture of a CUDA graph, the host cannot read a tensor, and the Python code around the
    operators does not run again.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.has_run = [], True  # a capture does not run the operators; this one does

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host reads a tensor in a capture")
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        if self.has_run:
            self.has_run = False
            return
        for operator, args, kwargs, result in self.calls:
            again = operator(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedCallable(CudaGraphedCallable):
    def run_eagerly(self):
        return self.function(*self.static_inputs)

    def capture_graph(self):
        tape = OperatorTape()
        with tape:
            self.static_outputs = self.function(*self.static_inputs)
        return tape


@contextmanager
def steps_recorded_on_a_cpu():
    """Inside the context, training steps on a CPU are captured as on a GPU, by `OperatorTape`."""
    original_init = TrainingStep.__init__

    def init(step, *args, **kwargs):
        original_init(step, *args, **kwargs)
        step.runs_on_gpu_stream = True

    with (
        mock.patch.object(TrainingStep, "__init__", init),
        mock.patch.object(Machine, "can_use_cuda_graph", return_value=True),
        mock.patch("residua.training.cuda_graph.get_own_stream", return_value=None),
        mock.patch("residua.training.step_graphs.CudaGraphedCallable", RecordedCallable),
    ):
        yield
