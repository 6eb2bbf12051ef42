"""One training step: forward pass, backward pass, update."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.optimisers import Optimiser
from residua.config.recipe import Recipe
from residua.data.counter_rng import random_bits_from_keys
from residua.net.freeze import last_layer_parameters, list_unfrozen_batchnorms
from residua.training.cuda_graph import BatchFunction, CudaGraphedCallable
from residua.training.distributed import local_bn_splits
from residua.training.machine import Machine
from residua.training.optimisers import (
    build_torch_optimiser,
    choose_lr_factors,
    make_parameter_groups,
)
from residua.training.weight_average import WeightAverage


class TrainingStep:
    """Trains `net` on one batch per call, and holds the optimiser's state.

    A batch is split into `bn_splits` equal parts, each with its own BN statistics.  Gradients and
    running statistics are averaged over the splits, and over the ranks of the machine's group.
    `body_lr`, `layer_decay`, `clip_norm` and `ema` are those of `Recipe`.  Unless `may_probe` is
    True, `set_probing` cannot be used.  Parameters that need no gradient are never trained.
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
    ) -> None:
        self.net, self.machine = net, machine
        self.bn_splits, self.label_smoothing = bn_splits, label_smoothing
        self.clip_norm = clip_norm
        machine.group.broadcast_weights(net)
        # buffers that each split updates from the same start, to be averaged afterwards
        self.split_buffers = list(net.buffers()) if bn_splits > 1 else []
        last_layer = last_layer_parameters(net)
        self.optimiser = build_torch_optimiser(
            optimiser,
            make_parameter_groups(
                net,
                optimiser,
                choose_lr_factors(net, body_lr, layer_decay),
                last_layer if may_probe else frozenset(),
            ),
        )
        self.flat_gradients = allocate_flat_gradients(net)
        self.body_gradients = {
            p: p.grad
            for p in net.parameters()
            if may_probe and p.requires_grad and p not in last_layer
        }
        self.norms = list_unfrozen_batchnorms(net)
        self.is_probing = False
        self.is_undivided = bn_splits * machine.group.world_size == 1
        self.run_undivided = self.make_undivided_function()
        self.average = WeightAverage(net, ema) if ema else None

    def make_undivided_function(self) -> BatchFunction:
        """Make the function for a batch that is not divided; it is a CUDA graph if possible."""
        if self.is_undivided and self.machine.can_use_cuda_graph(self.net):
            return CudaGraphedCallable(self.forward_backward)
        return self.forward_backward

    def __call__(self, images: Tensor, labels: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Train on a batch; return its mean loss and its number of wrong predictions, as scalars.

        `images` and `labels` are this rank's share of the batch; loss and wrong predictions are
        those of the whole batch, before the update.  Labels are classes (n,) or class probabilities
        (n, classes); the most probable class then counts as correct.  The call does not wait for
        the device.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.flat_gradients.zero_()
        compute = self.run_undivided if self.is_undivided else self.accumulate_over_splits
        loss, wrong = compute(images, labels)
        if self.clip_norm:
            clip_gradient_norm(self.flat_gradients, self.clip_norm)
        self.optimiser.step()
        return loss, wrong

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
            self.run_undivided = self.make_undivided_function()
        if is_probing:
            for norm in self.norms:
                norm.eval()

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
        with self.machine.autocast():
            logits = self.net(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        (loss / loss_divisor).backward()  # type: ignore[no-untyped-call]
        true_classes = labels if labels.dim() == 1 else labels.argmax(1)
        return loss.detach(), (logits.argmax(1) != true_classes).sum()

    def accumulate_over_splits(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Run a forward and backward pass over this rank's BN splits, and average over all ranks.

        Returns the mean loss and the number of wrong predictions of the whole batch.  Each split
        starts from the same running statistics; afterwards these are the mean over all splits.
        """
        group = self.machine.group
        local_splits = local_bn_splits(self.bn_splits, group)
        count = len(local_splits)
        initial_values = [b.clone() for b in self.split_buffers]
        float_buffers = [b for b in self.split_buffers if b.is_floating_point()]
        seed = int(torch.randint(2**62, ())) if self.bn_splits > 1 else 0
        split_results = []
        for split, x, y in zip(local_splits, images.chunk(count), labels.chunk(count), strict=True):
            if self.bn_splits > 1:  # dropout depends on the step's seed and the split alone
                torch.manual_seed(int(random_bits_from_keys(seed, split)))
            for buffer, value in zip(self.split_buffers, initial_values, strict=True):
                buffer.copy_(value)
            loss, wrong = self.forward_backward(x, y, count)
            scores = torch.stack([loss, wrong.to(loss.dtype)])
            split_results.append(torch.cat([scores, *[b.flatten() for b in float_buffers]]))
        means = torch.stack(split_results).mean(0)
        group.average_in_place([means, self.flat_gradients])
        buffer_means = torch.split(means[2:], [b.numel() for b in float_buffers])
        for buffer, mean in zip(float_buffers, buffer_means, strict=True):
            buffer.copy_(mean.view_as(buffer))
        return means[0], (means[1] * count * group.world_size).round().long()

    def optimiser_state(self) -> dict[str, Tensor]:
        """Return the optimiser's tensors (e.g. momentum), keyed by the names `PARAMETER/STATE`."""
        return {
            f"{name}/{state_key}": value
            for name, parameter in self.net.named_parameters()
            for state_key, value in self.optimiser.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def load_optimiser_state(self, state: dict[str, Tensor]) -> None:
        """Restore the tensors of `optimiser_state`, each in the memory layout of its parameter."""
        parameters = dict(self.net.named_parameters())
        for key, value in state.items():
            name, _, state_key = key.rpartition("/")
            parameter = parameters[name]
            template = parameter if value.shape == parameter.shape else value
            self.optimiser.state[parameter][state_key] = torch.empty_like(template).copy_(value)


def allocate_flat_gradients(net: nn.Module) -> Tensor:
    """Allocate all gradients of `net` as views of one zero tensor, and return that tensor.

    The tensor is kept for the whole run.  Separate gradients would be allocated between activations
    and would fragment the heap when these are freed.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    flat_gradients = torch.zeros(sum(sizes), dtype=parameters[0].dtype, device=parameters[0].device)
    for p, gradient in zip(parameters, torch.split(flat_gradients, sizes), strict=True):
        p.grad = gradient.as_strided(p.shape, p.stride())
    return flat_gradients


def clip_gradient_norm(gradients: Tensor, max_norm: float) -> None:
    """Multiply `gradients`, in place, so that their Euclidean norm is at most `max_norm`.

    The gradients are those of the whole batch, equal on all ranks, so that the factor is equal too.
    """
    norm = torch.linalg.vector_norm(gradients)
    gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))  # the constant is that of PyTorch


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
    )
