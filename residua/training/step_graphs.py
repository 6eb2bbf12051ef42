"""The CUDA graphs of a training step: one, or one before and one after the all-reduce of ranks."""

import torch
from torch import Tensor

from residua.data.batches import TrainingBatches
from residua.training.cuda_graph import CudaGraphedCallable, StepFunction
from residua.training.prefetched_batch import PrefetchedBatch

GraphKey = tuple[object, ...]


class StepGraphs:
    """Runs the parts of a step on a GPU, as CUDA graphs where possible.

    A part is captured again when its key changes, for example because other layers are trained.
    Unless `keeps_graphs` is True, the graph of its former key is then freed; else it stays in
    memory for the next time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.keeps_graphs = device, False
        self.current: dict[str, tuple[GraphKey, CudaGraphedCallable]] = {}  # by part
        self.kept: dict[tuple[str, GraphKey], CudaGraphedCallable] = {}
        self.prefetched: PrefetchedBatch | None = None
        self.kept_batches: dict[GraphKey, PrefetchedBatch] = {}

    def run(
        self,
        part: str,
        key: GraphKey,
        function: StepFunction,
        *inputs: Tensor | float,
        may_capture: bool,
    ) -> tuple[Tensor, ...]:
        """Call the function of a part, or replay its CUDA graph."""
        current_key, graphed = self.current.get(part, (None, None))
        if graphed is None or key != current_key:
            self.current.pop(part, None)  # frees the memory of the last one
            graphed = self.kept.get((part, key)) or CudaGraphedCallable(
                function, self.device, may_capture=may_capture
            )
            self.current[part] = key, graphed
            if self.keeps_graphs:
                self.kept[part, key] = graphed
        return graphed(*inputs)

    @property
    def are_captured(self) -> bool:
        """Whether all parts of the last step were replayed as graphs."""
        graphs = [graphed.graph for _, graphed in self.current.values()]
        return bool(graphs) and None not in graphs

    def forget(self) -> None:
        """Forget the current graphs, so that the next step begins without one."""
        self.current = {}

    def prefetch(self, batches: TrainingBatches, step: int) -> PrefetchedBatch:
        """Return batch `step`, which the last step has assembled or which is assembled now.

        With `keeps_graphs`, it is in the memory that its size has had.
        """
        if self.prefetched is not None and self.prefetched.holds(batches, step):
            return self.prefetched
        if not self.keeps_graphs:
            self.prefetched = PrefetchedBatch(batches, step)
            return self.prefetched
        key = (batches, batches.size_share(step))
        if key not in self.kept_batches:
            self.kept_batches[key] = PrefetchedBatch(batches, step)
        self.kept_batches[key].load(step)
        self.prefetched = self.kept_batches[key]
        return self.prefetched
