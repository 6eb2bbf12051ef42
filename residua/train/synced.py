"""What a network computes over a whole part of a batch where several processes compute it: BN's statistics, and what is dropped."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from residua.net.build import Dropped
from residua.train.machine import Machine, Net


def synchronise(net: Net, parts: int, machine: Machine) -> Net:
    """Replace modules of `net` in place by ones that compute over each part as one process would; names stay.

    Where each process computes whole parts, nothing is replaced.
    """
    if parts >= machine.group.size:
        return net
    sharers = machine.group.size // parts
    processes, _ = dist.new_subgroups(sharers)  # type: ignore[no-untyped-call]
    synced = SyncedNorm if machine.device.type == "cpu" else nn.SyncBatchNorm
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                setattr(module, name, instead_of(child, synced, processes))
            elif type(child) is Dropped:
                setattr(module, name, SharedDropped(child, machine.group.rank % sharers, sharers))
    return net


def instead_of(norm: BatchNorm, kind: "type[SyncedNorm | nn.SyncBatchNorm]", processes: dist.ProcessGroup) -> BatchNorm:
    """A module of that kind with the parameters and buffers of `norm`."""
    synced = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, processes)
    synced._parameters, synced._buffers, synced.training = norm._parameters, norm._buffers, norm.training
    return synced


class SyncedNorm(BatchNorm):
    """BN over the processes that share a part, on a CPU, where torch's SyncBatchNorm refuses to work."""

    def __init__(
        self, channels: int, eps: float, momentum: float | None, affine: bool, tracks: bool, processes: dist.ProcessGroup
    ) -> None:
        super().__init__(channels, eps, momentum, affine, tracks)
        self.processes = processes

    def _check_input_dim(self, input: Tensor) -> None:
        """Vectors or images alike."""

    def forward(self, x: Tensor) -> Tensor:
        """Images or vectors (n, c, ...) -> (x - mean) / sqrt(var + eps) * weight + bias, over the n of all sharers."""
        if not self.training:
            y: Tensor = super().forward(x)
            return y
        sharers = self.processes.size()
        exact, shape = x.to(torch.promote_types(x.dtype, torch.float32)), (-1, *[1] * (x.dim() - 2))
        var, mean = torch.var_mean(exact, [i for i in range(x.dim()) if i != 1], correction=0)
        mean, var = mean.double(), var.double()  # as a difference of squares follows
        mean, square = Summed.apply(torch.stack([mean, var + mean.square()]), self.processes) / sharers  # type: ignore[no-untyped-call]
        var = square - mean.square()
        self.track(mean.detach(), var.detach(), sharers * x.numel() // x.shape[1])
        scale = (var + self.eps).rsqrt().to(exact.dtype)
        if self.affine:
            scale = scale * self.weight
        y = (exact - mean.to(exact.dtype).view(shape)) * scale.view(shape)
        if self.affine:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)

    def track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` values, the variance without its bias."""
        if not self.track_running_stats:
            return
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), momentum)


class Summed(torch.autograd.Function):
    """A sum over processes through which gradients flow (that of torch.distributed.nn warns that it will go)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: dist.ProcessGroup) -> Tensor:
        ctx.processes, total = processes, x.clone()
        dist.all_reduce(total, group=processes)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.processes)
        return total, None


class SharedDropped(Dropped):
    """Draws for a whole part as one process would, and drops of its own share."""

    def __init__(self, drop: Dropped, i: int, sharers: int) -> None:
        super().__init__(drop.shortcut, drop.branch)
        self.training, self.i, self.sharers = drop.training, i, sharers

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x, shortcut, branch)
        mine, whole = slice(self.i * len(x), (self.i + 1) * len(x)), len(x) * self.sharers
        if self.branch:
            kept = torch.rand(whole, *[1] * (x.dim() - 1), device=x.device)[mine] >= self.branch
            branch = branch * (kept / (1 - self.branch)).to(branch.dtype)
        if self.shortcut:
            ones = torch.ones_like(torch.cat([shortcut] * self.sharers))  # in the same order in memory
            shortcut = shortcut * F.dropout(ones, self.shortcut)[mine]
        return shortcut + branch
