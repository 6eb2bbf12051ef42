"""Config of the classical image classifier: a linear SVM on VLAD descriptors of local patches.

Jegou et al. 2010 and 2012 encode an image by the differences between its patches and the nearest
words of a dictionary.  He et al. 2015, section 2, cite VLAD as an earlier residual representation.
The classifier is not trained by gradient descent.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import ClassVar, TypeAlias

from residua.config.checks import check_range
from residua.config.module_classifier import ModuleClassifier
from residua.config.network import Network
from residua.config.serialize import Json, decode_json, parse_literal
from residua.config.size_limits import check_classifier_size
from residua.errors import UsageError, unknown_name_error

SMALL_IMAGE_SIDE = 16  # images up to this side have fewer words and cells by default
VLAD_CHANGE_KEYS = ("patch", "contrast", "dimensions", "words", "cells", "samples", "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class VladClassifier:
    """A linear SVM on VLAD descriptors of images.

    Each square patch of an image is assigned to its nearest word; its residual is the patch minus
    the word.  The residuals are summed for each word and cell, and the SVM turns the sums into
    class scores.  The papers use SIFT descriptors of large photographs; patches, their size and the
    cells are our choice for small images.

    input       (channels, height, width)
    patch       side of a patch, in pixels; there is a patch at every position
    contrast    constant c in the scaling of a patch by 1 / sqrt(variance + c), for normalised
                pixels; our choice
    dimensions  number of values of a patch after PCA whitening (Jegou & Chum 2012)
    words       number of words of the dictionary, which k-means finds
    cells       rows and columns of the grid of cells; each cell has its own sums of residuals
    samples     number of patches to which the whitening and the dictionary are fitted; our choice
    cost        C of the SVM; a larger C fits the training images more closely.  The default was
                chosen by the dev error
    """

    IS_TRAINED_BY_STEPS: ClassVar[bool] = False  # it is fitted in a single step, without a recipe
    CARD_TAG: ClassVar[str] = "vlad"

    name: str = "vlad"
    input: tuple[int, ...]
    classes: int
    patch: int
    contrast: float = 0.1
    dimensions: int
    words: int
    cells: int
    samples: int = 200_000
    cost: float = 0.3

    def __post_init__(self) -> None:
        if len(self.input) != 3 or min(self.input) < 1:
            raise UsageError(f"input {self.input} is invalid: VLAD needs (channels, height, width)")
        if self.classes < 2:
            raise UsageError(f"an SVM needs at least 2 classes: got {self.classes}")
        check_range(self.patch, "patch", 1)
        check_range(self.words, "words", 1)
        check_range(self.cells, "cells", 1)
        check_range(self.samples, "samples", self.words)
        for name in ("contrast", "cost"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise UsageError(f"{name}={value} is invalid: it must be above 0")
        if self.patch > min(self.input[1:]):
            raise UsageError(
                f"patches of side {self.patch} do not fit into images of size {self.input[1:]}: "
                "choose a smaller patch"
            )
        if self.cells > min(self.patch_grid):
            raise UsageError(
                f"{self.cells} cells per side are too many: patches of side {self.patch} fit in "
                f"only {self.patch_grid} positions; choose fewer cells or a smaller patch"
            )
        if self.patch_numel == 1:
            raise UsageError("a patch of a single number has no contrast: choose a larger patch")
        # subtracting the mean of a patch removes one dimension
        if not 1 <= self.dimensions < self.patch_numel:
            raise UsageError(
                f"dimensions={self.dimensions} is invalid: "
                f"a patch has {self.patch_numel} numbers, so choose 1 to {self.patch_numel - 1}"
            )
        check_classifier_size(self.name, self.parameters, self.input)

    @property
    def patch_numel(self) -> int:
        """The number of values in a patch."""
        return self.input[0] * self.patch**2

    @property
    def patch_grid(self) -> tuple[int, int]:
        """The number of rows and of columns of patch positions."""
        return self.input[1] - self.patch + 1, self.input[2] - self.patch + 1

    @property
    def descriptor_length(self) -> int:
        """The number of values in an image's descriptor."""
        return self.cells**2 * self.words * self.dimensions

    @property
    def parameters(self) -> int:
        """The number of fitted values: mean patch, whitening, words, SVM weights and biases."""
        return (
            self.patch_numel * (1 + self.dimensions)
            + self.words * self.dimensions
            + self.classes * (self.descriptor_length + 1)
        )


ClassifierConfig: TypeAlias = Network | VladClassifier | ModuleClassifier
"""The config of the model that a run trains or a model folder holds."""


def make_vlad_classifier(name: str, input: tuple[int, ...], classes: int) -> VladClassifier:
    """Make a VLAD classifier from a name such as `vlad` or `vlad,words=32,cells=1`.

    `input` is the shape (channels, height, width) of the images.  Fields that the name does not set
    have defaults of our choice, guided by dev errors on digits and CIFAR-10.  Raises UsageError for
    an unknown field or an impossible value.
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
                f"{change!r} is not a valid part of the name vlad: write KEY=VALUE, "
                f"as in vlad,words=32, where KEY is one of {', '.join(VLAD_CHANGE_KEYS)}"
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


def is_vlad_name(model: str) -> bool:
    """Return whether `model` names VLAD.  Raises UsageError for a misspelled `vlad`."""
    name = model.partition(",")[0]
    if name != "vlad" and get_close_matches(name, ["vlad"]):
        raise unknown_name_error("model", name, ["vlad"])
    return name == "vlad"
