"""The classical image classifier by VLAD, as data: the residuals of local patches to a few words, and a linear SVM.

Jegou et al. 2010 and 2012 encode an image by what its patches leave over from the nearest words of a dictionary: among
the residual representations that He et al. 2015, section 2, name as forerunners of theirs.  Nothing here is trained by steps.
"""

from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from residua.config.network import Network
from residua.config.recipe import check_range
from residua.config.serialize import Json, decode_json, parse_literal
from residua.errors import UsageError

SMALL_IMAGE_SIDE = 16  # images up to this side have fewer words and cells
VLAD_CHANGE_KEYS = ("patch", "contrast", "dimensions", "words", "cells", "samples", "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class VladClassifier:
    """Every square patch of an image -> residuals to the nearest word, summed in each cell -> class scores.

    The papers describe large photographs by SIFT; patches, their sizes and the cells are our choice, for small images.
    """

    name: str = "vlad"
    input: tuple[int, ...]  # (channels, height, width)
    classes: int
    patch: int  # side; one stands at every place
    contrast: float = 0.1  # added to a patch's variance, in normalised pixels, before it is divided out; our choice
    dimensions: int  # of a patch after PCA whitening (Jegou & Chum 2012)
    words: int  # of the dictionary, by k-means
    cells: int  # the image is a grid of cells x cells, each with residual sums of its own
    samples: int = 200_000  # patches that whitening and dictionary are fitted to; our choice
    cost: float = 0.3  # C of the SVM: larger fits the training images more closely; our choice, by the dev error

    def __post_init__(self) -> None:
        if len(self.input) != 3 or min(self.input) < 1:
            raise UsageError(
                f"input {self.input} is impossible: VLAD takes images of (channels, height, width)"
            )
        if self.classes < 2:
            raise UsageError(f"an SVM tells at least 2 classes apart: got {self.classes}")
        check_range(self.patch, "patch", 1)
        check_range(self.words, "words", 1)
        check_range(self.cells, "cells", 1)
        check_range(self.samples, "samples", self.words)
        for name in ("contrast", "cost"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise UsageError(f"{name}={value} is impossible: it must be above 0")
        if self.patch > min(self.input[1:]):
            raise UsageError(
                f"patches of side {self.patch} do not fit into images of {self.input[1:]}: choose a smaller patch"
            )
        if self.cells > min(self.patch_grid):
            raise UsageError(
                f"{self.cells} cells a side are too many: patches of side {self.patch} stand at {self.patch_grid} places"
            )
        if self.patch_numel == 1:
            raise UsageError("a patch of a single number has no contrast: choose a larger patch")
        if (
            not 1 <= self.dimensions < self.patch_numel
        ):  # a patch without its mean has one dimension less
            raise UsageError(
                f"dimensions={self.dimensions} is impossible: a patch has {self.patch_numel} numbers, so choose 1 to {self.patch_numel - 1}"
            )

    @property
    def patch_numel(self) -> int:
        """Numbers of a patch."""
        return self.input[0] * self.patch**2

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.input[1] - self.patch + 1, self.input[2] - self.patch + 1

    @property
    def descriptor_length(self) -> int:
        """Of a descriptor."""
        return self.cells**2 * self.words * self.dimensions

    @property
    def parameters(self) -> int:
        """Numbers that are fitted: mean and whitening, dictionary, SVMs with their biases."""
        return (
            self.patch_numel * (1 + self.dimensions)
            + self.words * self.dimensions
            + self.classes * (self.descriptor_length + 1)
        )


ClassifierConfig: TypeAlias = Network | VladClassifier
"""What a run makes, and what a model folder holds."""


def make_vlad_classifier(name: str, input: tuple[int, ...], classes: int) -> VladClassifier:
    """`vlad`, or with fields replaced in the name, `vlad,words=32,cells=1`, for images of that shape.

    Our choice, by the dev error of digits and of CIFAR-10.  Raises UsageError for a field that does not exist or cannot be so.
    """
    words, cells = (16, 2) if min(input[1:]) <= SMALL_IMAGE_SIDE else (28, 3)
    field_values: dict[str, Json] = {
        "input": list(input),
        "classes": classes,
        "patch": 4,
        "words": words,
        "cells": cells,
    }
    for change in name.split(",")[1:]:
        key, equals, text = change.partition("=")
        if key not in VLAD_CHANGE_KEYS or not equals:
            raise UsageError(
                f"{change!r} does not fit vlad: write e.g. vlad,words=32; what can be replaced is {', '.join(VLAD_CHANGE_KEYS)}"
            )
        field_values[key] = parse_literal(text)
    if isinstance(field_values["patch"], int):
        field_values = {
            "dimensions": min(24, input[0] * field_values["patch"] ** 2 // 2),
            **field_values,
        }
    try:
        value: VladClassifier = decode_json(VladClassifier, {"name": name, **field_values}, "vlad")
    except TypeError as error:
        raise UsageError(str(error)) from None
    return value
