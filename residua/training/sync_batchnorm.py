"""Modules for a BN split that several ranks compute together: synchronised BN and drop-path.

For any number of ranks, the result equals, up to rounding, that of one process that computes the
whole split.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from residua.config.serialize import Json
from residua.net.freeze import FrozenStatsBatchNorm, list_unfrozen_batchnorms
from residua.net.joins import DropJoin
from residua.net.swap_batchnorm import swap_batchnorms
from residua.training.batch_share import BatchShare, list_ranks_of_splits
from residua.training.distributed import DataParallelGroup
from residua.training.machine import Machine, ModuleT


def convert_to_sync_modules(net: ModuleT, share: BatchShare, machine: Machine) -> ModuleT:
    """Replace BN and `DropJoin` modules of `net`, in place, by ones synchronised per BN split.

    `share` is what this rank computes of each batch.  Nothing is replaced if each rank computes
    whole splits.  BN whose statistics are frozen needs no synchronisation, and is kept.  The
    state_dict keeps its keys.  Every rank must call this function.
    """
    if share.bn_splits >= share.world_size:
        return net
    ranks_of_splits = [*map(list, list_ranks_of_splits(share.bn_splits, share.world_size))]
    split_group, _ = dist.new_subgroups_by_enumeration(ranks_of_splits)  # type: ignore[no-untyped-call]
    make_norm: Callable[..., BatchNorm] = partial(nn.SyncBatchNorm, process_group=split_group)
    if machine.device.type == "cpu":
        share_in_split = len(share.images) / share.split_size
        make_norm = partial(CpuSyncBatchNorm, process_group=split_group, share=share_in_split)
    swap_batchnorms(net, make_norm, except_classes=(FrozenStatsBatchNorm,))
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is DropJoin:
                setattr(module, name, SyncDropJoin(child, share))
    return net


def describe_exchange(net: nn.Module, group: DataParallelGroup) -> dict[str, Json]:
    """Say what the ranks exchange in a step of `net`, for run.json; {} for one process."""
    if group.world_size == 1:
        return {}
    is_synchronised = any(
        isinstance(module, CpuSyncBatchNorm | nn.SyncBatchNorm) for module in net.modules()
    )
    statistics = "each process by itself" if list_unfrozen_batchnorms(net) else "frozen"
    return {
        "gradients": f"one all-reduce of {group.world_size} processes",
        "batchnorm": "synchronised between processes" if is_synchronised else statistics,
    }


class CpuSyncBatchNorm(BatchNorm):
    """Synchronised BN on a CPU, where torch's own SyncBatchNorm raises an error.

    `share` is the share of the images of the BN split that this rank has.
    """

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        process_group: dist.ProcessGroup,
        share: float,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.process_group, self.share = process_group, share

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept images and vectors alike."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (n, c, ...) by the mean and variance over the samples of all ranks.

        In training mode, y = (x - mean) / sqrt(var + eps) * weight + bias.  In evaluation mode, the
        running statistics are used.
        """
        if not self.training:
            y: Tensor = super().forward(x)
            return y
        world_size = self.process_group.size()
        x_promoted = x.to(torch.promote_types(x.dtype, torch.float32))
        channel_shape = (-1, *[1] * (x.dim() - 2))
        var, mean = torch.var_mean(x_promoted, [i for i in range(x.dim()) if i != 1], correction=0)
        mean, var = mean.double(), var.double()  # the difference of squares below loses digits
        moments = torch.stack([mean, var + mean.square()]) * (self.share * world_size)
        moments = AllReduceSum.apply(moments, self.process_group)  # type: ignore[no-untyped-call]
        mean, mean_square = moments / world_size
        var = mean_square - mean.square()
        count = round(x.numel() // x.shape[1] / self.share)
        self.update_running_stats(mean.detach(), var.detach(), count)
        scale = (var + self.eps).rsqrt().to(x_promoted.dtype)
        if self.affine:
            scale = scale * self.weight
        centered = x_promoted - mean.to(x_promoted.dtype).view(channel_shape)
        y = centered * scale.view(channel_shape)
        if self.affine:
            y = y + self.bias.view(channel_shape)
        return y.to(x.dtype)

    def update_running_stats(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics from `mean` and `var` of `count` values per channel.

        `var` is the biased variance; it is made unbiased for the running variance, as in torch.
        """
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
    """A differentiable sum over the ranks of a group.

    torch.distributed.nn also has one, but warns that it will be removed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, process_group: dist.ProcessGroup) -> Tensor:
        ctx.process_group, total = process_group, x.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.process_group)
        return total, None


class SyncDropJoin(DropJoin):
    """Drop-path and shortcut dropout for one rank's slice of images that are normalised together.

    Every rank draws the same mask for all of these images, as a single process would, and applies
    its own slice of that mask.
    """

    def __init__(self, drop: DropJoin, share: BatchShare) -> None:
        super().__init__(drop.shortcut_dropout, drop.drop_path)
        self.training = drop.training
        positions = share.images_in_split
        self.own_slice = slice(positions.start, positions.stop)
        self.split_size = share.split_size

    def forward(self, x: Tensor, shortcut: Tensor, branch: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x, shortcut, branch)
        if self.drop_path:
            draws = torch.rand(self.split_size, *[1] * (x.dim() - 1), device=x.device)
            keep_mask = draws[self.own_slice] >= self.drop_path
            branch = branch * (keep_mask / (1 - self.drop_path)).to(branch.dtype)
        if self.shortcut_dropout:
            # cat keeps the shortcut's memory layout, which determines the order of the draws
            copies = torch.cat([shortcut[:1]] * self.split_size)
            ones = torch.ones_like(copies)
            shortcut = shortcut * F.dropout(ones, self.shortcut_dropout)[self.own_slice]
        return shortcut + branch
