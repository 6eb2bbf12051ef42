"""One lesion: which units are gone, and which stand in each other's places; how often a net is wrong with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from residua.data.counter import bits, permutation
from residua.study.anatomy import Anatomy

DELETE, SWAP = range(2)  # what random bits are for


@dataclass(frozen=True, slots=True)
class Wound:
    """Which unit stands at each place, and which units are without their branch; both by their number from 0."""

    order: tuple[int, ...]
    without: frozenset[int] = frozenset()

    @property
    def first(self) -> int:
        """The first place that is not as in the whole net; the number of places where all are."""
        return next((i for i, unit in enumerate(self.order) if unit != i or unit in self.without), len(self.order))

    @property
    def tau(self) -> float:
        """Kendall's, of the order with the true one: the share of pairs in the right order less that of those in the wrong."""
        order = torch.tensor(self.order)
        right = (order[:, None] < order).triu(1).sum().item()
        pairs = len(order) * (len(order) - 1) / 2
        return 2 * right / pairs - 1 if pairs else 1.0


def deleted(units: int, *which: int) -> Wound:
    return Wound(tuple(range(units)), frozenset(which))


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)} - {0})


def thinnings(anatomy: Anatomy, draws: int, seed: int) -> dict[int, list[Wound]]:
    """For each number of deletions, `draws` random choices: of 1, 2, 4, ... units, and of all but 0, 1, 2, 4, ...

    So Veit et al. 2016 delete units (section 4.2).  Where k are kept, the paths through the net are of lengths 0 to k, and of k
    over 2 in the mean: so they train a net that has short paths alone (section 5).
    """
    able, units = anatomy.deletable, len(anatomy.units)
    counts = sorted({*doublings(len(able)), *(len(able) - kept for kept in doublings(len(able) - 1))})
    return {
        count: [
            deleted(units, *(able[i] for i in permutation(len(able), seed, DELETE, count, draw)[:count].tolist()))
            for draw in range(draws if count < len(able) else 1)
        ]
        for count in counts
    }


def swappings(anatomy: Anatomy, draws: int, seed: int) -> dict[int, list[Wound]]:
    """For each of 1, 2, 4, ... swaps, `draws` random orders; none where no stage has two units that can swap.

    Pairs of units of a stage that keep the shape change places, one pair after the other (Veit et al. 2016, section 4.3).
    """
    places = [i for i, unit in enumerate(anatomy.units) if not unit.changes]
    pairs = [(i, j) for i, j in combinations(places, 2) if anatomy.units[i].stage == anatomy.units[j].stage]
    if not pairs:
        return {}
    return {
        count: [Wound(swapped(len(anatomy.units), pairs, (seed, SWAP, count, draw))) for draw in range(draws)]
        for count in doublings(len(places))
    }


def swapped(units: int, pairs: list[tuple[int, int]], key: tuple[int, int, int, int]) -> tuple[int, ...]:
    """0, 1, 2, ... after as many swaps as the key's third number says."""
    order = list(range(units))
    for which in (bits(*key, torch.arange(key[2])) % len(pairs)).tolist():
        i, j = pairs[which]
        order[i], order[j] = order[j], order[i]
    return tuple(order)


@torch.no_grad()
def errors(
    anatomy: Anatomy, wounds: Sequence[Wound], pixels: Tensor, labels: Tensor, batch: int, tell: Callable[[], None]
) -> list[float]:
    """The share of `pixels` (n, c, h, w), normalised, that a net is wrong about with each wound; `tell` for each batch of each.

    The inputs of all units are computed once for a batch; from there a wound's own way begins at its first change.
    """
    wrong = [0] * len(wounds)
    for x, answers in zip(torch.split(pixels, batch), torch.split(labels, batch), strict=True):
        inputs = [anatomy.stem(x)]
        for unit in anatomy.units:
            inputs.append(unit.whole(inputs[-1]))
        for i, wound in enumerate(wounds):
            scores = anatomy.head(onwards(anatomy, wound, inputs[wound.first]))
            wrong[i] += int((scores.argmax(1) != answers).sum())
            tell()
    return [count / len(labels) for count in wrong]


def onwards(anatomy: Anatomy, wound: Wound, x: Tensor) -> Tensor:
    """The output of the last unit, x being the input of the wound's first."""
    for number in wound.order[wound.first :]:
        unit = anatomy.units[number]
        through = unit.without if number in wound.without else unit.whole
        if through is None:
            raise ValueError(f"nothing can stand in for {unit.name}")
        x = through(x)
    return x
