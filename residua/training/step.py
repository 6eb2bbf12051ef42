"""One training step: forward pass, backward pass, update."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.optimisers import Optimiser
from residua.config.recipe import Recipe
from residua.data.batches import TrainingBatches
from residua.data.counter_rng import random_bits_from_keys
from residua.net.activation_checkpoint import draws_randomly
from residua.net.freeze import last_layer_parameters, list_unfrozen_batchnorms
from residua.net.gradient_stream import WeightGradientStream
from residua.training.cuda_graph import CudaGraphedCallable, StepFunction
from residua.training.distributed import local_bn_splits
from residua.training.gradients import allocate_flat_gradients, clip_gradient_norm
from residua.training.machine import Machine
from residua.training.optimisers import (
    build_torch_optimiser,
    choose_lr_factors,
    collect_optimiser_state,
    make_parameter_groups,
    restore_optimiser_state,
    trained_stem_parameters,
)
from residua.training.prefetched_batch import PrefetchedBatch
from residua.training.weight_average import WeightAverage


class TrainingStep:
    """Trains `net` on one batch per call, and holds the optimiser's state.

    A batch is split into `bn_splits` equal parts, each with its own BN statistics.  Gradients and
    running statistics are averaged over the splits, and over the ranks of the machine's group.
    `body_lr`, `layer_decay`, `clip_norm` and `ema` are those of `Recipe`.  Unless `may_probe` is
    True, `set_probing` cannot be used.  With `stem_learns_apart`, the stem has its own learning
    rate, and `set_stem_training` can be used.  Parameters that need no gradient are never trained.

    On a GPU, the step is a CUDA graph if `uses_cuda_graph`, which may be set to False.  With
    `keeps_graphs`, which may be set to True, the graphs of earlier phases of a run, such as those
    of smaller images, stay in memory, so that a second run needs no capture.  `gradient_stream` may
    be set if `bn_splits` is 1; until it is measured on a GPU, it is not set by itself.
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
    ) -> None:
        self.net, self.machine = net, machine
        self.bn_splits, self.label_smoothing = bn_splits, label_smoothing
        self.clip_norm = clip_norm
        machine.group.broadcast_weights(net)
        # buffers that each split updates from the same start, to be averaged afterwards
        self.split_buffers = list(net.buffers()) if bn_splits > 1 else []
        self.float_buffers = [b for b in self.split_buffers if b.is_floating_point()]
        self.seeds_splits = bn_splits > 1 and draws_randomly(net)
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
        self.takes_lr_as_tensor = optimiser.TAKES_LR_AS_TENSOR
        self.uses_cuda_graph = (
            machine.can_use_cuda_graph(net, bn_splits) and self.takes_lr_as_tensor
        )
        # in a graph, the backward pass allocates the gradients, each time at the same place
        self.flat_gradients = None if self.uses_cuda_graph else allocate_flat_gradients(net)
        self.body_gradients = {
            p: p.grad
            for p in net.parameters()
            if may_probe and p.requires_grad and p not in last_layer
        }
        self.norms = list_unfrozen_batchnorms(net)
        self.is_probing, self.trains_stem = False, True
        self.graphed_step: CudaGraphedCallable | None = None
        self.graph_key: tuple[object, ...] = ()
        self.prefetched: PrefetchedBatch | None = None
        self.keeps_graphs = False
        self.kept_graphs: dict[tuple[object, ...], CudaGraphedCallable] = {}
        self.kept_batches: dict[tuple[object, ...], PrefetchedBatch] = {}
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
        rates = float(lr), float(lr if stem_lr is None else stem_lr)
        return self.run(("batch",), self.train_on_batch, images, labels, *rates)

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
        if self.prefetched is None or not self.prefetched.holds(batches, step):
            self.prefetched = self.prefetch(batches, step)
        prefetched = self.prefetched
        batches.load_orders(step + 1)

        def train_and_assemble(next_step: Tensor, *rates: Tensor) -> tuple[Tensor, Tensor]:
            with prefetched.assemble_next(next_step):
                return self.train_on_batch(prefetched.images, prefetched.labels, *rates)

        rates = float(lr), float(lr if stem_lr is None else stem_lr)
        results = self.run((prefetched,), train_and_assemble, step + 1, *rates)
        prefetched.step = step + 1
        return results

    def prefetch(self, batches: TrainingBatches, step: int) -> PrefetchedBatch:
        """Assemble batch `step`; with `keeps_graphs`, in the memory that its size has had."""
        if not self.keeps_graphs:
            return PrefetchedBatch(batches, step)
        key = (batches, batches.size_share(step))
        if key not in self.kept_batches:
            self.kept_batches[key] = PrefetchedBatch(batches, step)
        self.kept_batches[key].load(step)
        return self.kept_batches[key]

    def run(
        self, source: tuple[object, ...], train: StepFunction, *inputs: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Call `train`, or replay its CUDA graph; `source` says what it does, beside its inputs."""
        if self.machine.device.type != "cuda" or not self.takes_lr_as_tensor:
            return train(*inputs)  # type: ignore[return-value]
        key = (*source, self.is_probing, self.trains_stem)
        if self.graphed_step is None or key != self.graph_key:
            self.graphed_step = self.kept_graphs.get(key)  # None frees the memory of the last one
            if self.graphed_step is None:
                self.graphed_step = CudaGraphedCallable(
                    train, self.machine.device, may_capture=self.uses_cuda_graph
                )
            self.graph_key = key
            if self.keeps_graphs:
                self.kept_graphs[key] = self.graphed_step
        return self.graphed_step(*inputs)  # type: ignore[return-value]

    def train_on_batch(
        self, images: Tensor, labels: Tensor, lr: float | Tensor, stem_lr: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Do what a call does, without a graph; on a GPU, the rates are scalar tensors."""
        results = self.compute_gradients(images, labels)
        self.machine.group.average_in_place([results, *self.gradients()])
        wrong_share, count = results[1], len(local_bn_splits(self.bn_splits, self.machine.group))
        self.restore_buffer_means(results[2:])
        if self.clip_norm:
            clip_gradient_norm(self.gradients(), self.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = (stem_lr if group["is_stem"] else lr) * group["lr_scale"]
        self.optimiser.step()
        wrong = (wrong_share * count * self.machine.group.world_size).round().long()
        return results[0].clone(), wrong

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the last batch: one flat tensor, or one of each parameter."""
        if self.flat_gradients is not None:
            return [self.flat_gradients]
        return [p.grad for p in self.net.parameters() if p.grad is not None]

    def clear_gradients(self) -> None:
        """Set the flat gradients to zero, or leave it to the backward pass to allocate others."""
        if self.flat_gradients is not None:
            self.flat_gradients.zero_()
            return
        for parameter in self.net.parameters():
            parameter.grad = None

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
        self, images: Tensor, labels: Tensor, loss_divisor: int = 1
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

        Returns means over the splits, as one fp32 tensor: loss, number of wrong predictions, and
        the buffers of all BN layers if there are several splits.  Each split starts from the same
        buffers.
        """
        self.clear_gradients()
        local_splits = local_bn_splits(self.bn_splits, self.machine.group)
        count = len(local_splits)
        initial_values = [b.clone() for b in self.split_buffers]
        seed = int(torch.randint(2**62, ())) if self.seeds_splits else 0
        split_results = []
        for split, x, y in zip(local_splits, images.chunk(count), labels.chunk(count), strict=True):
            if self.seeds_splits:  # dropout depends on the step's seed and the split alone
                torch.manual_seed(int(random_bits_from_keys(seed, split)))
            for buffer, value in zip(self.split_buffers, initial_values, strict=True):
                buffer.copy_(value)
            loss, wrong = self.forward_backward(x, y, count)
            scores = torch.stack([loss, wrong.to(loss.dtype)])
            split_results.append(torch.cat([scores, *[b.flatten() for b in self.float_buffers]]))
        return torch.stack(split_results).mean(0)

    def restore_buffer_means(self, means: Tensor) -> None:
        """Set the buffers to their `means` over all splits, as `compute_gradients` returns them."""
        buffer_means = torch.split(means, [b.numel() for b in self.float_buffers])
        for buffer, mean in zip(self.float_buffers, buffer_means, strict=True):
            buffer.copy_(mean.view_as(buffer))

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
    )
