"""A piece of work on a GPU as one CUDA graph: the thousands of kernels of a deep net's step are launched at once."""

from collections.abc import Callable

import torch
from torch import Tensor

WARMUP_CALLS = 3  # calls that are made as they are, for what libraries set up at their first ones cannot be captured

BatchFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class CudaGraphedCallable:
    """`work`, captured at its fourth call and replayed from then on; each replay reads and writes the same memory.

    So all that `work` changes stays in place, what is given is copied there, and what it returns is a copy.  Random numbers
    are drawn anew by each replay, from the seed of its time.  Batches that differ in shape from the captured one are worked on
    as they are.
    """

    def __init__(self, function: BatchFunction) -> None:
        self.function, self.call_count = function, 0
        # of warm calls too, as gradients are added on the stream of the first
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.call_count += 1
        if self.call_count <= WARMUP_CALLS or (
            self.graph is not None and images.shape != self.static_images.shape
        ):
            return self.run_eagerly(images, labels)
        graph = self.graph = self.graph or self.capture_graph(images, labels)
        self.static_images.copy_(images)
        self.static_labels.copy_(labels)
        graph.replay()
        return self.static_loss.clone(), self.static_wrong.clone()

    def run_eagerly(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Work on the stream of the graph, in turn with all else."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            outputs = self.function(images, labels)
        torch.cuda.current_stream().wait_stream(self.stream)
        return outputs

    def capture_graph(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """What `work` does, recorded and not yet done."""
        self.static_images, self.static_labels = (
            images.clone(memory_format=torch.preserve_format),
            labels.clone(),
        )
        torch.cuda.empty_cache()  # activations of the warm calls: the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.static_loss, self.static_wrong = self.function(
                self.static_images, self.static_labels
            )
        return graph
