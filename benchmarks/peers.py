"""torchvision as the peer of benchmarks."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[1]


def load_third_party() -> ModuleType:
    """The module tests/third_party.py.

    It imports torchvision even if torchvision's compiled operators do not match this PyTorch;
    afterwards `import torchvision` works everywhere.
    """
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    return import_module("tests.third_party")
