"""The moments of a batch, which a convolution can compute for the BN that follows it."""

from typing import NamedTuple

from torch import Tensor


class BatchMoments(NamedTuple):
    """The moments of a bf16 tensor (n, c, h, w), in parts of its n * h * w rows.

    `parts` (m, 2, c) holds, in fp32, the mean of each part and the sum of squared deviations from
    it.  A part has `rows_per_part` rows; the last one may have fewer.
    """

    parts: Tensor
    rows_per_part: int
