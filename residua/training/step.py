"""One training step: forward pass, backward pass, update."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.optimisers import Optimiser
from residua.data.counter_rng import random_bits_from_keys
from residua.net.freeze import last_layer_parameters
from residua.training.cuda_graph import CudaGraphedCallable
from residua.training.distributed import local_bn_splits
from residua.training.machine import Machine
from residua.training.optimisers import build_torch_optimiser, make_parameter_groups


class TrainingStep:
    """Trains `net` on one batch per call, and holds the optimiser's state.

    A batch is split into `bn_splits` equal parts, each with its own BN statistics.  Gradients and
    running statistics are averaged over the splits, and over the ranks of the machine's group.
    `body_lr_scale` multiplies the learning rate of all parameters but those of the last layer.
    """

    def __init__(
        self,
        net: nn.Module,
        optimiser: Optimiser,
        machine: Machine,
        bn_splits: int = 1,
        label_smoothing: float = 0.0,
        body_lr_scale: float = 1.0,
    ) -> None:
        self.net, self.machine = net, machine
        self.bn_splits, self.label_smoothing = bn_splits, label_smoothing
        machine.group.broadcast_weights(net)
        # buffers that each split updates from the same start, to be averaged afterwards
        self.split_buffers = list(net.buffers()) if bn_splits > 1 else []
        self.optimiser = build_torch_optimiser(
            optimiser,
            make_parameter_groups(net, optimiser, last_layer_parameters(net), body_lr_scale),
        )
        self.flat_gradients = allocate_flat_gradients(net)
        self.is_undivided = bn_splits * machine.group.world_size == 1
        self.run_undivided = (
            CudaGraphedCallable(self.forward_backward)
            if self.is_undivided and machine.can_use_cuda_graph(net)
            else self.forward_backward
        )

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
        self.optimiser.step()
        return loss, wrong

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
