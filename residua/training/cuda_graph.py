"""Run a training step on a GPU, or a part of it, as one CUDA graph.

A deep net's step launches thousands of small kernels; a graph launches them together.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from residua.errors import TrainingError
from residua.training.gpu_streams import get_own_stream

# Calls before the capture.  In these, libraries initialise themselves, which cannot be captured.
WARMUP_CALLS = 3

# Held during a capture, because other threads may train and capture on the same GPU.
CAPTURE_LOCK = threading.Lock()

StepFunction = Callable[..., tuple[Tensor, ...]]


class CudaGraphedCallable:
    """A function of tensors that is replayed as a CUDA graph from the fourth call on.

    Inputs are tensors or numbers, and the function gets a number as a scalar tensor on the GPU:
    int64 for an integer, fp32 for a float.  A graph always reads and writes the same memory.
    Therefore inputs are copied to that memory and results are copied from it, and the function must
    change its other tensors in place.  Each replay draws new random numbers that depend on the
    current seed.  After inputs whose shapes differ from the captured ones, the graph is captured
    anew, from the fourth such call on.  With `may_capture=False` there is never a graph.  A call
    raises TrainingError if the GPU's memory does not suffice.
    """

    def __init__(
        self, function: StepFunction, device: torch.device, *, may_capture: bool = True
    ) -> None:
        self.function, self.device, self.may_capture = function, device, may_capture
        self.call_count = 0
        # The warm-up runs on the graph's stream too, as gradients are accumulated on the stream
        # of the first call.
        self.stream = get_own_stream("graph")
        self.graph: torch.cuda.CUDAGraph | None = None
        self.static_inputs: list[Tensor] = []
        self.static_outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor | float) -> tuple[Tensor, ...]:
        if not self.fits(inputs):
            self.graph, self.call_count = None, 0
            self.static_inputs = [self.make_static_input(value) for value in inputs]
        for static, value in zip(self.static_inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                static.copy_(value)
            else:
                static.fill_(value)
        self.call_count += 1
        try:
            if self.call_count <= WARMUP_CALLS or not self.may_capture:
                return self.run_eagerly()
            if self.graph is None:
                self.graph = self.capture_graph()
        except RuntimeError as error:
            if out_of_memory := find_out_of_memory(error):
                raise TrainingError(
                    "a step needs more memory than the GPU has free: recompute activations, choose "
                    "a smaller batch, or train fewer runs at once on this GPU"
                ) from out_of_memory
            raise
        self.graph.replay()
        return tuple(output.clone() for output in self.static_outputs)

    def fits(self, inputs: tuple[Tensor | float, ...]) -> bool:
        """Return whether the inputs are as many as those of the last call, and of their shapes."""
        shapes = [value.shape if isinstance(value, Tensor) else torch.Size() for value in inputs]
        return shapes == [static.shape for static in self.static_inputs]

    def make_static_input(self, value: Tensor | float) -> Tensor:
        """Allocate the memory from which the graph reads an input."""
        if isinstance(value, Tensor):
            return torch.empty_like(value)
        return torch.tensor(
            value,
            device=self.device,
            dtype=torch.int64 if isinstance(value, int) else torch.float32,
        )

    def run_eagerly(self) -> tuple[Tensor, ...]:
        """Call the function on the graph's stream, synchronised with the current stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(*self.static_inputs)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def capture_graph(self) -> torch.cuda.CUDAGraph:
        """Record the kernels of one call without running them."""
        graph = torch.cuda.CUDAGraph()
        with (
            CAPTURE_LOCK,
            torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            self.static_outputs = self.function(*self.static_inputs)
        return graph


def find_out_of_memory(error: BaseException) -> torch.OutOfMemoryError | None:
    """Return the lack of memory that `error` is, or that came before it while a graph was captured.

    The end of the capture, which has failed then too, raises an error of its own.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, torch.OutOfMemoryError):
            return link
        link = link.__cause__ or link.__context__
    return None
