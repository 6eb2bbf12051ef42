"""A piece of work on a GPU as one CUDA graph: the thousands of kernels of a deep net's step are launched at once."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3  # calls that are made as they are, for what libraries set up at their first ones cannot be captured

Work = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Graphed:
    """`work`, captured at its fourth call and replayed from then on; each replay reads and writes the same memory.

    So all that `work` changes stays in place, what is given is copied there, and what it returns is a copy.  Random numbers
    are drawn anew by each replay, from the seed of its time.  Batches that differ in shape from the captured one are worked on
    as they are.
    """

    def __init__(self, work: Work) -> None:
        self.work, self.calls = work, 0
        # of warm calls too, as gradients are added on the stream of the first
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.calls <= WARM or (self.graph is not None and images.shape != self.images.shape):
            return self.aside(images, labels)
        graph = self.graph = self.graph or self.captured(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        graph.replay()
        return self.loss.clone(), self.wrong.clone()

    def aside(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Work on the stream of the graph, in turn with all else."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            done = self.work(images, labels)
        torch.cuda.current_stream().wait_stream(self.stream)
        return done

    def captured(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """What `work` does, recorded and not yet done."""
        self.images, self.labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        torch.cuda.empty_cache()  # activations of the warm calls: the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.loss, self.wrong = self.work(self.images, self.labels)
        return graph
