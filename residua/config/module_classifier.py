"""Config of a classifier that is a PyTorch module of the user's own."""

from dataclasses import dataclass
from typing import ClassVar

from residua.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleClassifier:
    """A module that maps images (n, *input) to class scores (n, classes).

    The module itself is not described, so it must be given again to load its weights or resume.

    name        qualified name of the module's class, e.g. `my_nets.Small`
    input       (channels, height, width)
    parameters  number of trainable parameters
    depth       number of convolutions and fully connected layers
    state       first 16 hexadecimal digits of the SHA-256 of the initial state_dict
    """

    IS_TRAINED_BY_STEPS: ClassVar[bool] = True
    CARD_TAG: ClassVar[str] = "pytorch"

    name: str
    input: tuple[int, ...]
    classes: int
    parameters: int
    depth: int
    state: str

    def __post_init__(self) -> None:
        if len(self.input) != 3 or min(self.input) < 1:
            raise UsageError(f"input {self.input} is invalid: give (channels, height, width)")
        if self.classes < 1:
            raise UsageError(f"{self.classes} classes are invalid: give at least 1")


def qualified_name(value: object) -> str:
    """Return the qualified name of a function or a class, or of the class of another value."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
