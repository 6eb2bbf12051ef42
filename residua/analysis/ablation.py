"""One lesion: which units are gone, and which stand in each other's places; how often a net is wrong with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from residua.analysis.parts import DissectedNetwork
from residua.data.counter_rng import random_bits_from_keys, random_permutation

DELETE_STREAM, SWAP_STREAM = range(2)  # what random bits are for


@dataclass(frozen=True, slots=True)
class Ablation:
    """Which unit stands at each place, and which units are without their branch; both by their number from 0."""

    unit_order: tuple[int, ...]
    deleted_units: frozenset[int] = frozenset()

    @property
    def first_changed_index(self) -> int:
        """The first place that is not as in the whole net; the number of places where all are."""
        return next(
            (
                i
                for i, unit in enumerate(self.unit_order)
                if unit != i or unit in self.deleted_units
            ),
            len(self.unit_order),
        )

    @property
    def kendall_tau(self) -> float:
        """Kendall's, of the order with the true one: the share of pairs in the right order less that of those in the wrong."""
        order = torch.tensor(self.unit_order)
        concordant = (order[:, None] < order).triu(1).sum().item()
        pairs = len(order) * (len(order) - 1) / 2
        return 2 * concordant / pairs - 1 if pairs else 1.0


def delete_units(unit_count: int, *deleted_indices: int) -> Ablation:
    return Ablation(tuple(range(unit_count)), frozenset(deleted_indices))


def doubling_counts_up_to(maximum: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return sorted({maximum, *(2**i for i in range(maximum.bit_length()) if 2**i <= maximum)} - {0})


def sample_random_deletions(
    dissected: DissectedNetwork, draws_per_count: int, seed: int
) -> dict[int, list[Ablation]]:
    """For each number of deletions, `draws` random choices: of 1, 2, 4, ... units, and of all but 0, 1, 2, 4, ...

    So Veit et al. 2016 delete units (section 4.2).  Where k are kept, the paths through the net are of lengths 0 to k, and of k
    over 2 in the mean: so they train a net that has short paths alone (section 5).
    """
    deletable, unit_count = dissected.deletable_indices, len(dissected.units)
    deletion_counts = sorted(
        {
            *doubling_counts_up_to(len(deletable)),
            *(len(deletable) - kept for kept in doubling_counts_up_to(len(deletable) - 1)),
        }
    )
    return {
        count: [
            delete_units(
                unit_count,
                *(
                    deletable[i]
                    for i in random_permutation(len(deletable), seed, DELETE_STREAM, count, draw)[
                        :count
                    ].tolist()
                ),
            )
            for draw in range(draws_per_count if count < len(deletable) else 1)
        ]
        for count in deletion_counts
    }


def sample_random_swaps(
    dissected: DissectedNetwork, draws_per_count: int, seed: int
) -> dict[int, list[Ablation]]:
    """For each of 1, 2, 4, ... swaps, `draws` random orders; none where no stage has two units that can swap.

    Pairs of units of a stage that keep the shape change places, one pair after the other (Veit et al. 2016, section 4.3).
    """
    swappable = [i for i, unit in enumerate(dissected.units) if not unit.changes_shape]
    pairs = [
        (i, j)
        for i, j in combinations(swappable, 2)
        if dissected.units[i].stage == dissected.units[j].stage
    ]
    if not pairs:
        return {}
    return {
        count: [
            Ablation(
                apply_random_swaps(len(dissected.units), pairs, (seed, SWAP_STREAM, count, draw))
            )
            for draw in range(draws_per_count)
        ]
        for count in doubling_counts_up_to(len(swappable))
    }


def apply_random_swaps(
    unit_count: int, swappable_pairs: list[tuple[int, int]], random_key: tuple[int, int, int, int]
) -> tuple[int, ...]:
    """0, 1, 2, ... after as many swaps as the key's third number says."""
    order = list(range(unit_count))
    for pair_index in (
        random_bits_from_keys(*random_key, torch.arange(random_key[2])) % len(swappable_pairs)
    ).tolist():
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
    """The share of `pixels` (n, c, h, w), normalised, that a net is wrong about with each wound; `tell` for each batch of each.

    The inputs of all units are computed once for a batch; from there a wound's own way begins at its first change.
    """
    wrong_counts = [0] * len(ablations)
    for x, batch_labels in zip(
        torch.split(pixels, batch_size), torch.split(labels, batch_size), strict=True
    ):
        unit_inputs = [dissected.stem(x)]
        for unit in dissected.units:
            unit_inputs.append(unit.intact(unit_inputs[-1]))
        for i, ablation in enumerate(ablations):
            logits = dissected.head(
                forward_from_first_change(
                    dissected, ablation, unit_inputs[ablation.first_changed_index]
                )
            )
            wrong_counts[i] += int((logits.argmax(1) != batch_labels).sum())
            on_step()
    return [count / len(labels) for count in wrong_counts]


def forward_from_first_change(dissected: DissectedNetwork, ablation: Ablation, x: Tensor) -> Tensor:
    """The output of the last unit, x being the input of the wound's first."""
    for unit_index in ablation.unit_order[ablation.first_changed_index :]:
        unit = dissected.units[unit_index]
        unit_function = unit.without_branch if unit_index in ablation.deleted_units else unit.intact
        if unit_function is None:
            raise ValueError(f"nothing can stand in for {unit.name}")
        x = unit_function(x)
    return x
