"""Compares an exported file with the network in PyTorch."""

from copy import deepcopy
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor, nn

from residua.config.model import ModelConfig
from residua.data.augment import normalise_pixels
from residua.data.image_views import compute_probabilities
from residua.deploy.inference_module import ExportableClassifier
from residua.deploy.runners import ExportedRunner

EXPORT_TOLERANCE = 1e-4
"""The largest allowed difference between the outputs of an exported file and of PyTorch.

For probabilities it is absolute.  For scores it is relative to the largest score, or absolute if
the largest score is below 1.
"""

CHECKED_BATCH_SIZES = (1, 5)
"""The batch sizes at which an exported file is compared with PyTorch.

Both differ from 2, the batch size of the example input, so that a batch size that was baked into
the file is detected.
"""


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """Largest absolute differences between a file's outputs and those of PyTorch in fp32.

    A difference is infinite if one of the outputs is not finite.
    """

    score_difference: float
    probability_difference: float
    largest_score: float  # largest absolute score of PyTorch

    @property
    def is_within_tolerance(self) -> bool:
        return (
            isfinite(self.largest_score)
            and self.score_difference <= EXPORT_TOLERANCE * max(1.0, self.largest_score)
            and self.probability_difference <= EXPORT_TOLERANCE
        )


@torch.inference_mode()
def measure_output_difference(
    run_exported: ExportedRunner, module: ExportableClassifier, net: nn.Module, config: ModelConfig
) -> OutputDifference:
    """Compare the outputs of an exported file with those of the original network on noise images.

    `module` is the exported module, with folded BN; `net` is the original network.
    """
    reference_net = deepcopy(net).eval()
    difference = OutputDifference(0.0, 0.0, 0.0)
    for count in CHECKED_BATCH_SIZES:
        pixels = torch.randint(
            256,
            (count, *module.input_shape),
            generator=torch.Generator().manual_seed(count),
            dtype=torch.uint8,
        )
        images = normalise_pixels(pixels, config.mean, config.std)
        expected_scores = reference_net(images)
        expected_probabilities = compute_probabilities(expected_scores, config.temperature)
        scores, probabilities = run_exported(pixels if module.bakes_preprocessing else images)
        difference = OutputDifference(
            max(difference.score_difference, largest_difference(scores, expected_scores)),
            max(
                difference.probability_difference,
                largest_difference(probabilities, expected_probabilities),
            ),
            max(
                difference.largest_score,
                largest_difference(expected_scores, torch.zeros_like(expected_scores)),
            ),
        )
    return difference


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference of two tensors; infinity if they cannot be compared.

    They cannot be compared if their shapes differ or if an element is not finite: the maximum of
    nan and a number may be the number.
    """
    if first.shape != second.shape or not (first.isfinite().all() and second.isfinite().all()):
        return inf
    return (first - second).abs().max().item()
