"""Run a training step on a GPU as one CUDA graph.

A deep net's step launches thousands of small kernels; a graph launches them together.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Calls before the capture.  In these, libraries initialise themselves, which cannot be captured.
WARMUP_CALLS = 3

BatchFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class CudaGraphedCallable:
    """A function of images and labels that is replayed as a CUDA graph from the fourth call on.

    A graph always reads and writes the same memory.  Therefore inputs are copied to that memory and
    results are copied from it, and the function must change its other tensors in place.  Each
    replay draws new random numbers that depend on the current seed.  After a batch whose shape
    differs from the captured one, the graph is captured anew, from the fourth such call on.
    """

    def __init__(self, function: BatchFunction) -> None:
        self.function, self.call_count = function, 0
        # The warm-up runs on the graph's stream too, as gradients are accumulated on the stream
        # of the first call.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.graph is not None and images.shape != self.static_images.shape:
            self.graph, self.call_count = None, 0
        self.call_count += 1
        if self.call_count <= WARMUP_CALLS:
            return self.run_eagerly(images, labels)
        graph = self.graph = self.graph or self.capture_graph(images, labels)
        self.static_images.copy_(images)
        self.static_labels.copy_(labels)
        graph.replay()
        return self.static_loss.clone(), self.static_wrong.clone()

    def run_eagerly(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Call the function on the graph's stream, synchronised with the current stream."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(images, labels)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def capture_graph(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Record the kernels of one call without running them."""
        self.static_images = images.clone(memory_format=torch.preserve_format)
        self.static_labels = labels.clone()
        torch.cuda.empty_cache()  # the warm-up's activations; the graph has its own memory pool
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.static_loss, self.static_wrong = self.function(
                self.static_images, self.static_labels
            )
        return graph
