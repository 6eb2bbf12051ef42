"""Delete or reorder the units of a trained network, and measure its classification error.

After Veit, Wilber & Belongie 2016, "Residual networks behave like ensembles of relatively shallow
networks", section 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from residua.analysis.parts import DissectedNetwork
from residua.data.counter_rng import RandomStream, random_bits_from_keys, random_permutation


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change to a network: the order in which its units are applied, and the units to delete.

    Units are numbered from 0, in the order of the intact network.
    """

    unit_order: tuple[int, ...]
    deleted_units: frozenset[int] = frozenset()

    @property
    def first_changed_index(self) -> int:
        """The first position at which the ablated network differs from the intact one.

        If nothing differs, this is the number of units.
        """
        for i, unit in enumerate(self.unit_order):
            if unit != i or unit in self.deleted_units:
                return i
        return len(self.unit_order)

    @property
    def kendall_tau(self) -> float:
        """Kendall's tau between `unit_order` and the original order, in [-1, 1].

        It is the share of pairs of units in their original order minus the share of pairs in
        reverse order.  It is 1 if there are fewer than two units.
        """
        order = torch.tensor(self.unit_order)
        concordant = (order[:, None] < order).triu(1).sum().item()
        pairs = len(order) * (len(order) - 1) / 2
        return 2 * concordant / pairs - 1 if pairs else 1.0


def delete_units(unit_count: int, *deleted_indices: int) -> Ablation:
    """Make an ablation that deletes the given units of `unit_count` and keeps the order."""
    return Ablation(tuple(range(unit_count)), frozenset(deleted_indices))


def list_powers_of_two_and_maximum(maximum: int) -> list[int]:
    """List the powers of two up to `maximum`, and `maximum` itself: 1, 2, 4, ..., maximum."""
    powers = {2**i for i in range(maximum.bit_length()) if 2**i <= maximum}
    return sorted({maximum, *powers} - {0})


def sample_random_deletions(
    dissected: DissectedNetwork, draws_per_count: int, seed: int
) -> dict[int, list[Ablation]]:
    """Draw random sets of units to delete, grouped by the number of deleted units.

    With N deletable units, the numbers of deleted units are 1, 2, 4, ..., N and
    N - 1, N - 2, N - 4, ... (Veit et al. 2016, section 4.2).  `draws_per_count` sets are drawn for
    each number, but only one for N.  If k units are left, a path goes through at most k branches,
    and through k / 2 on average.
    """
    deletable = dissected.deletable_indices
    few_deleted = list_powers_of_two_and_maximum(len(deletable))
    few_kept = list_powers_of_two_and_maximum(len(deletable) - 1)
    deletion_counts = sorted({*few_deleted, *(len(deletable) - kept for kept in few_kept)})

    def sample_deletion(count: int, draw: int) -> Ablation:
        order = random_permutation(
            len(deletable), seed, RandomStream.LESION_DELETION, count, draw
        ).tolist()
        return delete_units(len(dissected.units), *(deletable[i] for i in order[:count]))

    return {
        count: [
            sample_deletion(count, draw)
            for draw in range(draws_per_count if count < len(deletable) else 1)
        ]
        for count in deletion_counts
    }


def sample_random_swaps(
    dissected: DissectedNetwork, draws_per_count: int, seed: int
) -> dict[int, list[Ablation]]:
    """Draw random orders of the units, grouped by number of swaps (Veit et al. 2016, section 4.3).

    A swap exchanges two units of one stage; both must keep the shape of their input.  If M units of
    the network keep the shape, the numbers of swaps are 1, 2, 4, ..., M.  The dictionary is empty
    if no stage has two such units.
    """
    swappable = [i for i, unit in enumerate(dissected.units) if not unit.changes_shape]
    pairs = [
        (i, j)
        for i, j in combinations(swappable, 2)
        if dissected.units[i].stage == dissected.units[j].stage
    ]
    if not pairs:
        return {}
    unit_count = len(dissected.units)
    return {
        count: [
            Ablation(apply_random_swaps(unit_count, pairs, count, draw, seed))
            for draw in range(draws_per_count)
        ]
        for count in list_powers_of_two_and_maximum(len(swappable))
    }


def apply_random_swaps(
    unit_count: int, swappable_pairs: list[tuple[int, int]], swap_count: int, draw: int, seed: int
) -> tuple[int, ...]:
    """Apply `swap_count` random swaps to the order 0, 1, 2, ..., and return the new order.

    `draw` is the index of the draw; draws with different indices are independent.
    """
    bits = random_bits_from_keys(
        seed, RandomStream.LESION_SWAP, swap_count, draw, torch.arange(swap_count)
    )
    order = list(range(unit_count))
    for pair_index in (bits % len(swappable_pairs)).tolist():
        i, j = swappable_pairs[pair_index]
        order[i], order[j] = order[j], order[i]
    return tuple(order)


@torch.no_grad()
def measure_ablation_errors(
    dissected: DissectedNetwork,
    ablations: Sequence[Ablation],
    pixels: Tensor,
    labels: Tensor,
    batch_size: int,
    on_step: Callable[[], None],
) -> list[float]:
    """Return the error of each ablation: the share in [0, 1] of images that it classifies wrongly.

    `pixels` are normalised images (n, c, h, w), and `labels` (n,) are their classes.  `on_step` is
    called once per ablation and batch.
    """
    wrong_counts = [0] * len(ablations)
    batches = zip(torch.split(pixels, batch_size), torch.split(labels, batch_size), strict=True)
    for batch_pixels, batch_labels in batches:
        # Each ablation starts at its first changed unit: the units before it are computed once.
        unit_inputs = compute_unit_and_head_inputs(dissected, batch_pixels)
        for i, ablation in enumerate(ablations):
            x = unit_inputs[ablation.first_changed_index]
            logits = dissected.head(compute_last_unit_output(dissected, ablation, x))
            wrong_counts[i] += int((logits.argmax(1) != batch_labels).sum())
            on_step()
    return [count / len(labels) for count in wrong_counts]


def compute_unit_and_head_inputs(dissected: DissectedNetwork, pixels: Tensor) -> list[Tensor]:
    """Compute the input of every unit of the intact network, followed by the input of the head."""
    unit_inputs = [dissected.stem(pixels)]
    for unit in dissected.units:
        unit_inputs.append(unit.intact(unit_inputs[-1]))
    return unit_inputs


def compute_last_unit_output(dissected: DissectedNetwork, ablation: Ablation, x: Tensor) -> Tensor:
    """Run the ablated network's units, from the first changed one on, and return their output.

    `x` is the input of the first changed unit.

    Raises ValueError if the ablation deletes a unit that cannot be deleted.
    """
    for unit_index in ablation.unit_order[ablation.first_changed_index :]:
        unit = dissected.units[unit_index]
        unit_function = unit.without_branch if unit_index in ablation.deleted_units else unit.intact
        if unit_function is None:
            raise ValueError(
                f"{unit.name} cannot be deleted, because its output differs in shape from its "
                "input: choose another unit"
            )
        x = unit_function(x)
    return x
