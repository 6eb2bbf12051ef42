"""What a Python program adds to a run that no JSON can describe: a module, a transform."""

from dataclasses import dataclass

from torch import nn

from residua.data.user_transform import UserTransform


@dataclass(frozen=True, slots=True)
class UserAdditions:
    """A module to train instead of a network of residua, and a random transform of the images."""

    module: nn.Module | None = None
    transform: UserTransform | None = None


NO_ADDITIONS = UserAdditions()
