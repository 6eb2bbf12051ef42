"""VLAD: what the positions of a feature map, or the patches of an image, leave over from the nearest of a few centres."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Vlad(nn.Module):
    """Features (n, channels, *size) -> (n, words * channels), of length 1 (Arandjelovic et al. 2016, Eq. 4).

    Each position's feature vector, of length 1, is shared among the words by a softmax; a word sums its share of the
    residuals to its centre.  At the start the shares follow from the distances to the centres: exp(-sharpness d^2).
    """

    def __init__(self, channels: int, words: int, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.centres = nn.Parameter(torch.empty(words, channels))
        self.weight = nn.Parameter(torch.empty(words, channels))
        self.bias = nn.Parameter(torch.empty(words))

    def reset(self, generator: torch.Generator) -> None:
        """Centres at random directions."""
        with torch.no_grad():
            self.centres.copy_(F.normalize(torch.randn(self.centres.shape, generator=generator)))
            self.weight.copy_(2 * self.sharpness * self.centres)
            self.bias.copy_(-self.sharpness * self.centres.square().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(x.flatten(2), dim=1)
        shares = (self.weight @ x + self.bias[:, None]).softmax(1)
        residuals = shares @ x.transpose(1, 2) - shares.sum(2, keepdim=True) * self.centres
        return F.normalize(F.normalize(residuals, dim=2).flatten(1), dim=1)
