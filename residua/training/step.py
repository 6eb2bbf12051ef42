"""One training step: forward pass, backward pass, update."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.optimisers import Optimiser
from residua.config.recipe import Recipe
from residua.data.batches import TrainingBatches
from residua.net.freeze import last_layer_parameters, list_unfrozen_batchnorms
from residua.net.gradient_stream import WeightGradientStream
from residua.training.batch_share import make_batch_share
from residua.training.bn_splits import BatchNormSplits
from residua.training.cuda_graph import StepFunction
from residua.training.gradients import GradientMemory, clip_gradient_norm
from residua.training.machine import Machine
from residua.training.optimisers import (
    build_torch_optimiser,
    choose_lr_factors,
    collect_optimiser_state,
    make_parameter_groups,
    restore_optimiser_state,
    trained_stem_parameters,
)
from residua.training.prefetched_batch import hold_batch
from residua.training.step_graphs import StepGraphs
from residua.training.weight_average import WeightAverage


class TrainingStep:
    """Trains `net` on one batch per call, and holds the optimiser's state.

    A batch is split into `bn_splits` equal parts, each with its own BN statistics.  Gradients and
    running statistics are averaged over the splits, and over the ranks of the machine's group.
    `batch_size`, that of all ranks together, is needed only if their shares may differ in size.
    `body_lr`, `layer_decay`, `clip_norm` and `ema` are those of `Recipe`.  Unless `may_probe` is
    True, `set_probing` cannot be used.  With `stem_learns_apart`, the stem has its own learning
    rate, and `set_stem_training` can be used.  Parameters that need no gradient are never trained.

    On a GPU, the step is a CUDA graph if `uses_cuda_graph`, which may be set to False.  With
    several ranks it is two, and the all-reduce runs between them.  `gradient_stream` may be set if
    `bn_splits` is 1; until it is measured on a GPU, it is not set by itself.
    """

    def __init__(
        self,
        net: nn.Module,
        optimiser: Optimiser,
        machine: Machine,
        bn_splits: int = 1,
        label_smoothing: float = 0.0,
        body_lr: float = 1.0,
        *,
        layer_decay: float = 1.0,
        clip_norm: float = 0.0,
        ema: float = 0.0,
        may_probe: bool = False,
        stem_learns_apart: bool = False,
        batch_size: int = 0,
    ) -> None:
        self.net, self.machine = net, machine
        self.label_smoothing, self.clip_norm = label_smoothing, clip_norm
        group = machine.group
        group.broadcast_weights(net)
        share = make_batch_share(batch_size or bn_splits * group.world_size, bn_splits, group)
        self.splits = BatchNormSplits(net, share, machine.device)
        last_layer = last_layer_parameters(net)
        self.stem_parameters = trained_stem_parameters(net) if stem_learns_apart else set()
        self.optimiser = build_torch_optimiser(
            optimiser,
            make_parameter_groups(
                net,
                optimiser,
                choose_lr_factors(net, body_lr, layer_decay),
                last_layer if may_probe else frozenset(),
                self.stem_parameters,
            ),
        )
        # the update may read the rate on the host, which a stream of its own would wait for
        self.runs_on_gpu_stream = machine.device.type == "cuda" and optimiser.TAKES_LR_AS_TENSOR
        self.uses_cuda_graph = machine.can_capture_step(net, bn_splits, optimiser)
        self.gradients = GradientMemory(
            net, group, self.splits.result_count, backward_allocates=self.uses_cuda_graph
        )
        self.body_gradients = {
            p: p.grad
            for p in net.parameters()
            if may_probe and p.requires_grad and p not in last_layer
        }
        self.norms = list_unfrozen_batchnorms(net)
        self.is_probing, self.trains_stem = False, True
        self.graphs = StepGraphs(machine.device)
        self.average = WeightAverage(net, ema) if ema else None
        self.gradient_stream: WeightGradientStream | None = None

    def __call__(
        self, images: Tensor, labels: Tensor, lr: float, stem_lr: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Train on a batch; return its mean loss and its number of wrong predictions, as scalars.

        `images` and `labels` are this rank's share of the batch; loss and wrong predictions are
        those of the whole batch, before the update.  Labels are classes (n,) or class probabilities
        (n, classes); the most probable class then counts as correct.  `stem_lr` is the learning
        rate of a stem that learns apart, by default `lr`.  The call does not wait for the device.
        """
        return self.train(("batch",), hold_batch, (images, labels), lr, stem_lr)

    def can_assemble(self, batches: TrainingBatches) -> bool:
        """Return whether `train_on_step` can be used: a CUDA graph can assemble the batches too."""
        return self.uses_cuda_graph and batches.can_be_captured

    def train_on_step(
        self, batches: TrainingBatches, step: int, lr: float, stem_lr: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Train on batch `step`, and return the same as a call on its images and labels.

        Call it only if `can_assemble(batches)`.  The graph also assembles the batch of the next
        step.
        """
        prefetched = self.graphs.prefetch(batches, step)
        batches.load_orders(step + 1)
        results = self.train((prefetched,), prefetched.assemble_next, (step + 1,), lr, stem_lr)
        prefetched.step = step + 1
        return results

    def train(
        self,
        source: tuple[object, ...],
        open_batch: Callable[..., AbstractContextManager[tuple[Tensor, Tensor]]],
        inputs: tuple[Tensor | float, ...],
        lr: float,
        stem_lr: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Train on the images and labels in the context `open_batch(*inputs)`.

        `source` says where they come from: a CUDA graph belongs to one source.
        """
        rates = float(lr), float(lr if stem_lr is None else stem_lr)
        key = (*source, self.is_probing, self.trains_stem)

        def train_on_batch(*values: Tensor) -> tuple[Tensor, Tensor]:
            with open_batch(*values[:-2]) as (images, labels):
                return self.train_on_batch(images, labels, *values[-2:])

        def collect_gradients(*values: Tensor) -> tuple[Tensor, ...]:
            with open_batch(*values) as (images, labels):
                self.gradients.put_into_one_tensor(self.compute_gradients(images, labels))
            return ()

        if self.machine.group.world_size == 1:
            return self.run("step", key, train_on_batch, *inputs, *rates)  # type: ignore[return-value]
        self.run("gradients", key, collect_gradients, *inputs)
        self.gradients.average_over_ranks()
        update = partial(self.update, self.gradients.results)
        return self.run("update", key[-2:], update, *rates)  # type: ignore[return-value]

    def run(
        self,
        part: str,
        key: tuple[object, ...],
        function: StepFunction,
        *inputs: Tensor | float,
    ) -> tuple[Tensor, ...]:
        """Call the function of a part of the step, or replay its CUDA graph."""
        if not self.runs_on_gpu_stream:
            return function(*inputs)
        return self.graphs.run(part, key, function, *inputs, may_capture=self.uses_cuda_graph)

    def train_on_batch(
        self, images: Tensor, labels: Tensor, lr: float | Tensor, stem_lr: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Do what a call does in one process, without a graph; on a GPU, the rates are tensors."""
        return self.update(self.compute_gradients(images, labels), lr, stem_lr)

    def update(
        self, results: Tensor, lr: float | Tensor, stem_lr: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update the weights; `results` are those of `compute_gradients` for the whole batch."""
        self.splits.restore_buffer_means(results)
        if self.clip_norm:
            clip_gradient_norm(self.gradients.list_all(), self.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = (stem_lr if group["is_stem"] else lr) * group["lr_scale"]
        self.optimiser.step()
        return self.splits.read_scores(results)

    def set_probing(self, is_probing: bool) -> None:
        """Train only the last layer from now on, on fixed features, or train all layers again.

        The other layers then get no gradient, so that the optimiser neither changes them nor keeps
        a state for them, and BN normalises by its running statistics.  It must be called before
        each step, because an evaluation puts BN back into training mode.
        """
        if is_probing != self.is_probing:
            self.is_probing = is_probing
            for parameter, gradient in self.body_gradients.items():
                parameter.requires_grad_(not is_probing)
                parameter.grad = None if is_probing else gradient
            for norm in self.norms:
                norm.train()
        if is_probing:
            for norm in self.norms:
                norm.eval()

    def set_stem_training(self, trains_stem: bool) -> None:
        """Compute gradients for the stem, or none while its learning rate is 0, to save time."""
        self.trains_stem = trains_stem
        for parameter in self.stem_parameters:
            parameter.requires_grad_(trains_stem)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the network has its averaged weights, if it has any."""
        return self.average.applied() if self.average else nullcontext()

    def forward_backward(
        self, images: Tensor, labels: Tensor, loss_divisor: float = 1
    ) -> tuple[Tensor, Tensor]:
        """Run one forward and backward pass; return mean loss and number of wrong predictions.

        Both results are scalar tensors.  The gradient of loss / `loss_divisor` is added to the
        `.grad` of the parameters.
        """
        stream = self.gradient_stream
        with self.machine.autocast(), stream.attached() if stream else nullcontext():
            logits = self.net(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        (loss / loss_divisor).backward()  # type: ignore[no-untyped-call]
        if stream:
            stream.join()
        true_classes = labels if labels.dim() == 1 else labels.argmax(1)
        return loss.detach(), (logits.argmax(1) != true_classes).sum()

    def compute_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run a forward and backward pass over this rank's BN splits.

        Returns the results of `BatchNormSplits.compute_gradients`.
        """
        self.gradients.clear()
        return self.splits.compute_gradients(self.forward_backward, images, labels)

    def optimiser_state(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors (e.g. momentum), keyed by the names `PARAMETER/STATE`."""
        return collect_optimiser_state(self.net, self.optimiser)

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors of `optimiser_state`, each in the memory layout of its parameter."""
        restore_optimiser_state(self.net, self.optimiser, state)


def make_training_step(net: nn.Module, recipe: Recipe, machine: Machine) -> TrainingStep:
    """Make the training step of `recipe` for `net`."""
    return TrainingStep(
        net,
        recipe.optimiser,
        machine,
        recipe.bn_splits,
        recipe.smoothing,
        recipe.body_lr,
        layer_decay=recipe.layer_decay,
        clip_norm=recipe.clip_norm,
        ema=recipe.ema,
        may_probe=recipe.probe > 0,
        stem_learns_apart=recipe.stem > 0,
        batch_size=recipe.batch_size,
    )
