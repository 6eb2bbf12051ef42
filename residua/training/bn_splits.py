"""The forward and backward passes over the BN splits of a rank's share of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from residua.data.counter_rng import random_bits_from_keys
from residua.net.activation_checkpoint import draws_randomly
from residua.training.batch_share import BatchShare


class BatchNormSplits:
    """Runs `net` over the BN splits of `share`, each from the same buffers.

    `result_count` is the number of elements of the results: loss, number of wrong predictions, and
    the buffers of all BN layers if there are several splits.
    """

    def __init__(self, net: nn.Module, share: BatchShare, device: torch.device) -> None:
        self.share = share
        has_several = share.bn_splits > 1
        # buffers that each split updates from the same start, to be averaged afterwards
        self.buffers = list(net.buffers()) if has_several else []
        self.float_buffers = [b for b in self.buffers if b.is_floating_point()]
        self.result_count = 2 + sum(b.numel() for b in self.float_buffers)
        self.seeds_splits = has_several and draws_randomly(net)
        self.weights: Tensor | None = None
        if (share.image_weight, share.split_weight) != (1, 1):
            self.weights = torch.full((self.result_count,), share.split_weight, device=device)
            self.weights[0] = share.image_weight
            shares = max(share.bn_splits, share.world_size)
            self.weights[1] = len(share.splits) * share.world_size / shares

    def compute_gradients(
        self,
        forward_backward: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Call `forward_backward(images, labels, loss divisor)` for each split; return the results.

        Each call returns its loss and its number of wrong predictions.  Results are means over the
        splits, in one fp32 tensor.  They and the gradients are weighted, so that their mean over
        the ranks is that over the batch.
        """
        count = len(self.share.splits)
        divisor = count / self.share.image_weight
        initial_values = [b.clone() for b in self.buffers]
        seed = int(torch.randint(2**62, ())) if self.seeds_splits else 0
        results = []
        for split, x, y in zip(
            self.share.splits, images.chunk(count), labels.chunk(count), strict=True
        ):
            if self.seeds_splits:  # dropout depends on the step's seed and the split alone
                torch.manual_seed(int(random_bits_from_keys(seed, split)))
            for buffer, value in zip(self.buffers, initial_values, strict=True):
                buffer.copy_(value)
            loss, wrong = forward_backward(x, y, divisor)
            scores = torch.stack([loss, wrong.to(loss.dtype)])
            results.append(torch.cat([scores, *[b.flatten() for b in self.float_buffers]]))
        means = torch.stack(results).mean(0)
        return means if self.weights is None else means * self.weights

    def read_scores(self, results: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the number of wrong predictions of the whole batch."""
        shares = max(self.share.bn_splits, self.share.world_size)
        return results[0].clone(), (results[1] * shares).round().long()

    def restore_buffer_means(self, results: Tensor) -> None:
        """Set the buffers to their means over all splits of the batch."""
        buffer_means = torch.split(results[2:], [b.numel() for b in self.float_buffers])
        for buffer, mean in zip(self.float_buffers, buffer_means, strict=True):
            buffer.copy_(mean.view_as(buffer))
