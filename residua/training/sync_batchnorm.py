"""What a network computes over a whole part of a batch where several processes compute it: BN's statistics, and what is dropped."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from residua.net.build import DropJoin
from residua.training.machine import Machine, ModuleT


def convert_to_sync_modules(net: ModuleT, bn_splits: int, machine: Machine) -> ModuleT:
    """Replace modules of `net` in place by ones that compute over each part as one process would; names stay.

    Where each process computes whole parts, nothing is replaced.
    """
    if bn_splits >= machine.group.world_size:
        return net
    ranks_per_split = machine.group.world_size // bn_splits
    split_group, _ = dist.new_subgroups(ranks_per_split)  # type: ignore[no-untyped-call]
    sync_class = CpuSyncBatchNorm if machine.device.type == "cpu" else nn.SyncBatchNorm
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                setattr(module, name, make_sync_batchnorm(child, sync_class, split_group))
            elif type(child) is DropJoin:
                setattr(
                    module,
                    name,
                    SyncDropJoin(child, machine.group.rank % ranks_per_split, ranks_per_split),
                )
    return net


def make_sync_batchnorm(
    norm: BatchNorm,
    sync_class: "type[CpuSyncBatchNorm | nn.SyncBatchNorm]",
    process_group: dist.ProcessGroup,
) -> BatchNorm:
    """A module of that kind with the parameters and buffers of `norm`."""
    sync_norm = sync_class(
        norm.num_features,
        norm.eps,
        norm.momentum,
        norm.affine,
        norm.track_running_stats,
        process_group,
    )
    sync_norm._parameters, sync_norm._buffers, sync_norm.training = (
        norm._parameters,
        norm._buffers,
        norm.training,
    )
    return sync_norm


class CpuSyncBatchNorm(BatchNorm):
    """BN over the processes that share a part, on a CPU, where torch's SyncBatchNorm refuses to work."""

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        process_group: dist.ProcessGroup,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        """Vectors or images alike."""

    def forward(self, x: Tensor) -> Tensor:
        """Images or vectors (n, c, ...) -> (x - mean) / sqrt(var + eps) * weight + bias, over the n of all sharers."""
        if not self.training:
            y: Tensor = super().forward(x)
            return y
        world_size = self.process_group.size()
        x_promoted, shape = (
            x.to(torch.promote_types(x.dtype, torch.float32)),
            (-1, *[1] * (x.dim() - 2)),
        )
        var, mean = torch.var_mean(x_promoted, [i for i in range(x.dim()) if i != 1], correction=0)
        mean, var = mean.double(), var.double()  # as a difference of squares follows
        moments = torch.stack([mean, var + mean.square()])
        moments = AllReduceSum.apply(moments, self.process_group)  # type: ignore[no-untyped-call]
        mean, mean_square = moments / world_size
        var = mean_square - mean.square()
        self.update_running_stats(mean.detach(), var.detach(), world_size * x.numel() // x.shape[1])
        scale = (var + self.eps).rsqrt().to(x_promoted.dtype)
        if self.affine:
            scale = scale * self.weight
        y = (x_promoted - mean.to(x_promoted.dtype).view(shape)) * scale.view(shape)
        if self.affine:
            y = y + self.bias.view(shape)
        return y.to(x.dtype)

    def update_running_stats(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards those of `count` values, the variance without its bias."""
        if not self.track_running_stats:
            return
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), momentum)


class AllReduceSum(torch.autograd.Function):
    """A sum over processes through which gradients flow (that of torch.distributed.nn warns that it will go)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: dist.ProcessGroup) -> Tensor:
        ctx.processes, total = process_group, x.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.processes)
        return total, None


class SyncDropJoin(DropJoin):
    """Draws for a whole part as one process would, and drops of its own share."""

    def __init__(self, drop: DropJoin, rank_in_split: int, ranks_per_split: int) -> None:
        super().__init__(drop.shortcut_dropout, drop.drop_path)
        self.training, self.rank_in_split, self.ranks_per_split = (
            drop.training,
            rank_in_split,
            ranks_per_split,
        )

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x, shortcut, branch)
        own_slice, split_size = (
            slice(self.rank_in_split * len(x), (self.rank_in_split + 1) * len(x)),
            len(x) * self.ranks_per_split,
        )
        if self.drop_path:
            keep_mask = (
                torch.rand(split_size, *[1] * (x.dim() - 1), device=x.device)[own_slice]
                >= self.drop_path
            )
            branch = branch * (keep_mask / (1 - self.drop_path)).to(branch.dtype)
        if self.shortcut_dropout:
            ones = torch.ones_like(
                torch.cat([shortcut] * self.ranks_per_split)
            )  # in the same order in memory
            shortcut = shortcut * F.dropout(ones, self.shortcut_dropout)[own_slice]
        return shortcut + branch
