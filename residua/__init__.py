"""Deep residual networks for image recognition: build, train and study them, from 8 to 1,202 layers.

`import residua` is light: a name imports its module, and with it torch where that is needed, when it is first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residua.errors import DataError, Interrupted, RecordError, ResiduaError, TrainingError, UsageError
    from residua.net.build import build, create_model
    from residua.net.folder import from_pretrained, save_pretrained
    from residua.spec.memory import activation_bytes
    from residua.spec.model import ModelConfig
    from residua.spec.network import Head, Network, Order, Stage, Stem, Unit
    from residua.spec.papers import list_models, network
    from residua.spec.plan import plan
    from residua.spec.recipe import Recipe, recipe
    from residua.spec.run import Run

__version__ = version("residua")

HOMES = {
    "errors": "DataError Interrupted RecordError ResiduaError TrainingError UsageError",
    "net.build": "build create_model",
    "net.folder": "from_pretrained save_pretrained",
    "spec.memory": "activation_bytes",
    "spec.model": "ModelConfig",
    "spec.network": "Head Network Order Stage Stem Unit",
    "spec.papers": "list_models network",
    "spec.plan": "plan",
    "spec.recipe": "Recipe recipe",
    "spec.run": "Run",
}
WHERE = {name: home for home, names in HOMES.items() for name in names.split()}
__all__ = [
    "DataError",
    "Head",
    "Interrupted",
    "ModelConfig",
    "Network",
    "Order",
    "Recipe",
    "RecordError",
    "ResiduaError",
    "Run",
    "Stage",
    "Stem",
    "TrainingError",
    "Unit",
    "UsageError",
    "activation_bytes",
    "build",
    "create_model",
    "from_pretrained",
    "list_models",
    "network",
    "plan",
    "recipe",
    "save_pretrained",
]


def __getattr__(name: str) -> object:
    if name not in WHERE:
        raise AttributeError(f"module 'residua' has no attribute {name!r}")
    return getattr(import_module(f"residua.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
