"""The distribution of one activation, as a point mass at 0 plus a histogram, for `random_walk`."""

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

CELL_WIDTH = 1 / 16  # of the histogram; errors are about CELL_WIDTH^2 / 100


@dataclass(frozen=True, slots=True)
class BranchNoise:
    """The normal distribution that models the output of a branch at initialisation."""

    mean: float
    variance: float

    @property
    def second_moment(self) -> float:
        return self.mean**2 + self.variance


@dataclass(frozen=True, slots=True, eq=False)
class ActivationDistribution:
    """The distribution of one activation x, or a part of such a distribution.

    `cell_masses` is a histogram with cells of width `CELL_WIDTH`, half of them below 0.
    `mass_at_zero` is the probability that x is exactly 0, e.g. after a ReLU or zero padding.
    The masses of a part sum to less than 1.
    """

    mass_at_zero: float
    cell_masses: NDArray[np.float64]

    @property
    def total_mass(self) -> float:
        """The sum of all masses: 1 for a whole distribution, less for a part of one."""
        return self.mass_at_zero + float(self.cell_masses.sum())

    def moment(self, power: int) -> float:
        """Return the mean of x^power; `power` must be at least 1."""
        centers = compute_cell_centers(len(self.cell_masses))
        return float((self.cell_masses * centers**power).sum())

    @property
    def mean(self) -> float:
        return self.moment(1)

    @property
    def variance(self) -> float:
        return self.moment(2) - self.mean**2

    def add_noise(self, noise: BranchNoise) -> "ActivationDistribution":
        """Return the distribution of x + z, where z is noise that is independent of x."""
        if noise.variance == 0:
            return self
        histogram_cells = len(self.cell_masses)
        spectrum = compute_noise_spectrum(histogram_cells, noise.mean, noise.variance)
        convolved = np.fft.irfft(np.fft.rfft(self.cell_masses) * spectrum, histogram_cells)
        noise_cells = discretize_normal(histogram_cells, noise.mean, noise.variance)
        return ActivationDistribution(
            0.0, np.maximum(convolved, 0) + self.mass_at_zero * noise_cells
        )

    def drop_negative_mass(self) -> "ActivationDistribution":
        """Return the part of the distribution where x >= 0, with unchanged masses."""
        is_positive = compute_cell_centers(len(self.cell_masses)) > 0
        return ActivationDistribution(self.mass_at_zero, np.where(is_positive, self.cell_masses, 0))

    def apply_relu(self) -> "ActivationDistribution":
        """Return the distribution of max(0, x)."""
        nonnegative = self.drop_negative_mass()
        return ActivationDistribution(
            self.mass_at_zero + self.total_mass - nonnegative.total_mass, nonnegative.cell_masses
        )

    def scale_mass(self, factor: float) -> "ActivationDistribution":
        """Return this distribution with all masses multiplied by `factor`."""
        return ActivationDistribution(self.mass_at_zero * factor, self.cell_masses * factor)

    def move_mass_to_zero(self, kept_share: float) -> "ActivationDistribution":
        """Return the distribution after a share 1 - `kept_share` of the activations is set to 0."""
        return ActivationDistribution(
            self.mass_at_zero * kept_share + (1 - kept_share) * self.total_mass,
            self.cell_masses * kept_share,
        )


def compute_cell_centers(histogram_cells: int) -> NDArray[np.float64]:
    """Return the centers of the histogram's cells (histogram_cells,), symmetric about 0."""
    cells = np.arange(histogram_cells, dtype=np.float64)
    centers: NDArray[np.float64] = (cells - histogram_cells // 2 + 0.5) * CELL_WIDTH
    return centers


@lru_cache(maxsize=32)
def discretize_normal(histogram_cells: int, mean: float, variance: float) -> NDArray[np.float64]:
    """Return the mass of N(mean, variance) in each histogram cell (histogram_cells,)."""
    return approximate_cell_masses(compute_cell_centers(histogram_cells), mean, variance)


@lru_cache(maxsize=32)
def compute_noise_spectrum(
    histogram_cells: int, mean: float, variance: float
) -> NDArray[np.complex128]:
    """Return the real FFT of a histogram of N(mean, variance) whose first cell is that of 0.

    Multiplying a histogram's FFT by this FFT convolves the two, which adds the noise.
    """
    cell_offsets = np.fft.ifftshift(
        (np.arange(histogram_cells) - histogram_cells // 2) * CELL_WIDTH
    )
    return np.fft.rfft(approximate_cell_masses(cell_offsets, mean, variance))


def approximate_cell_masses(
    cell_centers: NDArray[np.float64], mean: float, variance: float
) -> NDArray[np.float64]:
    """Approximate the mass of N(mean, variance) per cell: density at the center times width."""
    return np.asarray(
        CELL_WIDTH
        * np.exp(-((cell_centers - mean) ** 2) / (2 * variance))
        / sqrt(2 * pi * variance),
        np.float64,
    )


def standard_normal(histogram_cells: int) -> ActivationDistribution:
    """Return the distribution N(0, 1), which models activations after a newly initialised BN."""
    return ActivationDistribution(0.0, discretize_normal(histogram_cells, 0.0, 1.0))
