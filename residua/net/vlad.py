"""VLAD: sum the residuals of local features to their nearest visual words (centres)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.vlad_config import VladClassifier

IMAGES_PER_CHUNK = 64  # images whose patches are in memory at the same time


class NetVlad(nn.Module):
    """Features (n, channels, *size) -> descriptors (n, words * channels) of length 1.

    NetVLAD (Arandjelovic et al. 2016, Eq. 4): each position's feature vector, of length 1, is
    shared among the words by a softmax; a word sums its share of the residuals to its centre.  At
    the start the shares follow from the distances to the centres: exp(-sharpness d^2).
    """

    def __init__(self, channels: int, words: int, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.centres = nn.Parameter(torch.empty(words, channels))
        self.weight = nn.Parameter(torch.empty(words, channels))
        self.bias = nn.Parameter(torch.empty(words))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw centres of length 1 in random directions; weight and bias follow from them."""
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
    """Images (n, *classifier.input) -> class scores (n, classes), by the classical VLAD pipeline.

    Its buffers are fitted by `residua.training.vlad`, not trained by gradient descent.
    """

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

    def compute_features(self, images: Tensor) -> Tensor:
        """The inputs (n, features) of the last layer: the descriptors of images (n, c, h, w)."""
        return self.compute_descriptors(images)

    def forward(self, images: Tensor) -> Tensor:
        # without autocast: near a border between words, bf16 chooses another word than fp32
        with torch.autocast(images.device.type, enabled=False):
            if torch.compiler.is_compiling():
                # an exported graph cannot split a batch whose size it does not know
                return self.compute_scores(images)
            chunks = torch.split(images, IMAGES_PER_CHUNK)
            return torch.cat([self.compute_scores(chunk) for chunk in chunks])

    def compute_scores(self, images: Tensor) -> Tensor:
        return self.compute_descriptors(images) @ self.weight.T + self.bias

    def extract_patches(self, images: Tensor) -> Tensor:
        """All patches of images (n, c, h, w), normalised: (n, positions, patch_numel).

        Each patch has mean 0, and is divided by sqrt(variance + classifier.contrast).
        """
        patches = F.unfold(images, self.classifier.patch).transpose(1, 2)
        patches = patches - patches.mean(2, keepdim=True)
        return patches / (patches.square().mean(2, keepdim=True) + self.classifier.contrast).sqrt()

    def whiten_patches(self, patches: Tensor) -> Tensor:
        """PCA whitening (Jegou & Chum 2012): (..., patch_numel) -> (..., dimensions).

        Over the patches that the whitening was fitted to, the results are uncorrelated and have
        variance 1.
        """
        return (patches - self.mean) @ self.whitening

    def compute_descriptors(self, images: Tensor) -> Tensor:
        """The VLAD descriptors of images (n, c, h, w): (n, descriptor_length), of length 1.

        Each cell of the image contributes one vector per word, cell by cell.  A patch belongs to
        its nearest word; a word sums the residuals of its patches (Jegou et al. 2010, Eq. 1).
        Signed square roots damp frequent words (Jegou et al. 2012, section 3).
        """
        patches = self.extract_patches(images.to(self.mean.dtype))
        x = torch.unflatten(self.whiten_patches(patches), 1, self.classifier.patch_grid)
        nearest_words = (2 * x @ self.words.T - self.words.square().sum(1)).argmax(3)
        assignments = F.one_hot(nearest_words, len(self.words)).to(x.dtype)
        cell_sums = [
            self.sum_residuals(x_cell.flatten(1, 2), assignments_cell.flatten(1, 2))
            for x_cell, assignments_cell in zip(
                self.split_cells(x), self.split_cells(assignments), strict=True
            )
        ]
        descriptors = torch.stack(cell_sums, 1).flatten(1)
        # unlike sign(v) sqrt(|v|), this has a gradient at 0, the value of words without patches
        descriptors = descriptors / descriptors.abs().clamp_min(1e-12).sqrt()
        return F.normalize(descriptors, dim=1)

    def split_cells(self, x: Tensor) -> list[Tensor]:
        """The cells of `x` (n, rows, columns, d), row by row."""
        cells = self.classifier.cells
        return [cell for row in x.tensor_split(cells, 1) for cell in row.tensor_split(cells, 2)]

    def sum_residuals(self, x: Tensor, assignments: Tensor) -> Tensor:
        """The residuals x - word of a cell, summed by word: (n, words, d).

        `x` is (n, patches, d); `assignments` (n, patches, words) is 1 for a patch's word, else 0.
        """
        return assignments.transpose(1, 2) @ x - assignments.sum(1)[:, :, None] * self.words
