"""VLAD: describe an image by the residuals of its local features to visual words (centres)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residua.config.vlad_config import VladClassifier

IMAGES_PER_CHUNK = 64  # number of images whose patches are in memory at the same time


class NetVlad(nn.Module):
    """NetVLAD: features (n, channels, *size) -> unit vectors (n, words * channels).

    The feature vector at each position is normalised to length 1, and assigned to all words with
    weights from a softmax.  For each word, the layer sums the weighted residuals to the centre of
    the word (Arandjelovic et al. 2016, Eq. 4).  At initialisation, the weights are proportional to
    exp(-sharpness d^2), with d the distance to the centre.
    """

    def __init__(self, channels: int, words: int, sharpness: float = 10.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.centres = nn.Parameter(torch.empty(words, channels))
        self.weight = nn.Parameter(torch.empty(words, channels))
        self.bias = nn.Parameter(torch.empty(words))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw centres of length 1 in random directions; set weight and bias to match them."""
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
    """The classical VLAD pipeline: images (n, *classifier.input) -> class scores (n, classes).

    The buffers are fitted by `residua.training.vlad`, not trained by gradient descent.
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
        """Return the inputs (n, features) of the last layer: the descriptors of the images."""
        return self.compute_descriptors(images)

    def forward(self, images: Tensor) -> Tensor:
        # without autocast: a patch almost as near to another word could be assigned to it in bf16
        with torch.autocast(images.device.type, enabled=False):
            if torch.compiler.is_compiling():
                # an exported graph cannot split a batch whose size it does not know
                return self.compute_scores(images)
            chunks = torch.split(images, IMAGES_PER_CHUNK)
            return torch.cat([self.compute_scores(chunk) for chunk in chunks])

    def compute_scores(self, images: Tensor) -> Tensor:
        return self.compute_descriptors(images) @ self.weight.T + self.bias

    def extract_normalised_patches(self, images: Tensor) -> Tensor:
        """Extract and normalise patches: images (n, c, h, w) -> (n, positions, patch_numel).

        There is a patch at every position.  Its mean is subtracted, and the result is divided by
        sqrt(variance + classifier.contrast).
        """
        patches = F.unfold(images, self.classifier.patch).transpose(1, 2)
        patches = patches - patches.mean(2, keepdim=True)
        return patches / (patches.square().mean(2, keepdim=True) + self.classifier.contrast).sqrt()

    def whiten_patches(self, patches: Tensor) -> Tensor:
        """Apply PCA whitening (Jegou & Chum 2012): (..., patch_numel) -> (..., dimensions).

        On the patches to which the whitening was fitted, the resulting dimensions are uncorrelated
        and have variance 1.
        """
        return (patches - self.mean) @ self.whitening

    def compute_descriptors(self, images: Tensor) -> Tensor:
        """Compute VLAD descriptors: images (n, c, h, w) -> unit vectors (n, descriptor_length).

        A patch belongs to its nearest word.  The image is divided into a grid of cells; for each
        cell and word, the residuals of the patches are summed (Jegou et al. 2010, Eq. 1).  A
        descriptor concatenates these sums, cell by cell, after a signed square root, which damps
        frequent words (Jegou et al. 2012, section 3).
        """
        patches = self.extract_normalised_patches(images.to(self.mean.dtype))
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
        """Split `x` (n, rows, columns, d) into a grid of cells, and list them row by row."""
        cells = self.classifier.cells
        return [cell for row in x.tensor_split(cells, 1) for cell in row.tensor_split(cells, 2)]

    def sum_residuals(self, x: Tensor, assignments: Tensor) -> Tensor:
        """Sum, for each word, the residuals x - word of its patches in one cell: (n, words, d).

        `x` is (n, patches, d).  `assignments` (n, patches, words) is one-hot.
        """
        return assignments.transpose(1, 2) @ x - assignments.sum(1)[:, :, None] * self.words
