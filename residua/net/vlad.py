"""VLAD: what the positions of a feature map, or the patches of an image, leave over from the nearest of a few centres."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.vlad_config import VladClassifier

IMAGES_PER_CHUNK = 64  # images whose patches are in memory at once


class NetVlad(nn.Module):
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

    def reset_parameters(self, generator: torch.Generator) -> None:
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


class VladNetwork(nn.Module):
    """Images (n, *value.input) -> class scores (n, classes), by the classical pipeline; its numbers are fitted, not trained."""

    mean: Tensor
    whitening: Tensor
    words: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, classifier: VladClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        shapes = {
            "mean": (classifier.patch_numel,),
            "whitening": (classifier.patch_numel, classifier.dimensions),
            "words": (classifier.words, classifier.dimensions),
            "weight": (classifier.classes, classifier.descriptor_length),
            "bias": (classifier.classes,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(
            images.device.type, enabled=False
        ):  # near a border between words, bf16 chooses another one
            if (
                torch.compiler.is_compiling()
            ):  # an exported graph takes any number of images at once
                return self.compute_scores(images)
            return torch.cat(
                [self.compute_scores(part) for part in torch.split(images, IMAGES_PER_CHUNK)]
            )

    def compute_scores(self, images: Tensor) -> Tensor:
        return self.compute_descriptors(images) @ self.weight.T + self.bias

    def extract_patches(self, images: Tensor) -> Tensor:
        """All patches of images (n, c, h, w), without their mean and contrast: (n, places, value.pixels)."""
        patches = F.unfold(images, self.classifier.patch).transpose(1, 2)
        patches = patches - patches.mean(2, keepdim=True)
        return patches / (patches.square().mean(2, keepdim=True) + self.classifier.contrast).sqrt()

    def whiten_patches(self, patches: Tensor) -> Tensor:
        """(..., value.pixels) -> (..., value.dimensions), uncorrelated and of variance 1 (Jegou & Chum 2012)."""
        return (patches - self.mean) @ self.whitening

    def compute_descriptors(self, images: Tensor) -> Tensor:
        """VLAD of each image (n, c, h, w), cell after cell, word after word: (n, value.numbers), of length 1.

        A patch belongs to its nearest word; a word sums what its patches leave over (Jegou et al. 2010, Eq. 1).  Signed square
        roots damp words that are seen often (Jegou et al. 2012, section 3).
        """
        patches = self.extract_patches(images.to(self.mean.dtype))
        x = torch.unflatten(self.whiten_patches(patches), 1, self.classifier.patch_grid)
        nearest_words = (2 * x @ self.words.T - self.words.square().sum(1)).argmax(3)
        assignments = F.one_hot(nearest_words, len(self.words)).to(x.dtype)
        cells = self.classifier.cells
        cell_sums = [
            self.sum_residuals(x_cell.flatten(1, 2), belongs_cell.flatten(1, 2))
            for x_row, belongs_row in zip(
                x.tensor_split(cells, 1), assignments.tensor_split(cells, 1), strict=True
            )
            for x_cell, belongs_cell in zip(
                x_row.tensor_split(cells, 2), belongs_row.tensor_split(cells, 2), strict=True
            )
        ]
        descriptors = torch.stack(cell_sums, 1).flatten(1)
        descriptors = (
            descriptors / descriptors.abs().clamp_min(1e-12).sqrt()
        )  # unlike sign(v) sqrt(|v|) it has a gradient at 0, where no patch came
        return F.normalize(descriptors, dim=1)

    def sum_residuals(self, x: Tensor, assignments: Tensor) -> Tensor:
        """Sums of x - word over a cell: x (n, patches, d), belongs (n, patches, words) of 0 and 1 -> (n, words, d)."""
        return assignments.transpose(1, 2) @ x - assignments.sum(1)[:, :, None] * self.words
