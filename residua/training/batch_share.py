"""Which images of each batch a rank computes, and with which other ranks it shares a BN split."""

from dataclasses import dataclass
from itertools import pairwise

from residua.config.recipe import Recipe
from residua.errors import UsageError
from residua.training.distributed import SINGLE_PROCESS, DataParallelGroup


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The part of each batch that one rank computes: whole BN splits, or a slice of one split.

    The shares of the ranks cover the batch in order.  They differ in size where the batch or its BN
    splits cannot be divided evenly.

    batch_size  images of the whole batch
    bn_splits   equal parts into which the batch is split for BN
    world_size  number of ranks
    splits      indices of the BN splits in which the rank's images are
    ranks       the ranks that compute these splits together, in order
    images      positions of the rank's images in the batch
    """

    batch_size: int
    bn_splits: int
    world_size: int
    splits: range
    ranks: range
    images: range

    @property
    def images_in_split(self) -> range:
        """The positions of the rank's images among those of its first BN split."""
        start = self.splits.start * self.split_size
        return range(self.images.start - start, self.images.stop - start)

    @property
    def split_size(self) -> int:
        """The images of a BN split."""
        return self.batch_size // self.bn_splits

    @property
    def image_weight(self) -> float:
        """The factor on means over the rank's images, before they are averaged over the ranks."""
        return len(self.images) * self.world_size / self.batch_size

    @property
    def split_weight(self) -> float:
        """The factor on means over the rank's BN splits, before they are averaged over the ranks.

        All ranks of a split have the same mean.
        """
        return len(self.splits) * self.world_size / (self.bn_splits * len(self.ranks))


def make_batch_share(
    batch_size: int, bn_splits: int = 1, group: DataParallelGroup = SINGLE_PROCESS
) -> BatchShare:
    """Make the share of the batch of this rank.

    With at most as many ranks as BN splits, each rank computes whole splits; else some ranks share
    each split.  Both are divided as evenly as possible.  Raises UsageError if the BN splits are not
    of equal size, or if a rank would have no image; the message suggests the nearest batch sizes.
    """
    if bn_splits > batch_size:
        raise UsageError(
            f"a batch of {batch_size} cannot be split into {bn_splits} parts: choose at most one "
            "part for each image"
        )
    if remainder := batch_size % bn_splits:
        rounded_down = batch_size - remainder
        nearest_sizes = (rounded_down, rounded_down + bn_splits)
        raise UsageError(
            f"a batch of {batch_size} cannot be split evenly into {bn_splits} parts: "
            f"choose {' or '.join(f'batch_size={size}' for size in nearest_sizes)}"
        )
    rank, world_size, split_size = group.rank, group.world_size, batch_size // bn_splits
    if world_size <= bn_splits:
        splits = range(rank * bn_splits // world_size, (rank + 1) * bn_splits // world_size)
        images = range(splits.start * split_size, splits.stop * split_size)
        return BatchShare(batch_size, bn_splits, world_size, splits, range(rank, rank + 1), images)
    ranks_of_splits = list_ranks_of_splits(bn_splits, world_size)
    most_ranks = max(map(len, ranks_of_splits))
    if split_size < most_ranks:
        parts = f", split into {bn_splits} parts," if bn_splits > 1 else ""
        raise UsageError(
            f"a batch of {batch_size}{parts} is too small for {world_size} processes: choose "
            f"batch_size={most_ranks * bn_splits} or more, or start fewer processes"
        )
    split = rank * bn_splits // world_size
    ranks = ranks_of_splits[split]
    start, stop = [
        split * split_size + split_size * k // len(ranks)
        for k in (rank - ranks.start, rank - ranks.start + 1)
    ]
    splits = range(split, split + 1)
    return BatchShare(batch_size, bn_splits, world_size, splits, ranks, range(start, stop))


def list_ranks_of_splits(bn_splits: int, world_size: int) -> list[range]:
    """List the ranks that compute each BN split together; there are more ranks than splits."""
    first_ranks = [-(-split * world_size // bn_splits) for split in range(bn_splits + 1)]
    return [range(*pair) for pair in pairwise(first_ranks)]


def share_batch_of_recipe(recipe: Recipe, group: DataParallelGroup) -> BatchShare:
    """Make this rank's share of each batch of a recipe, as `make_batch_share` does."""
    return make_batch_share(recipe.batch_size, recipe.bn_splits, group)
