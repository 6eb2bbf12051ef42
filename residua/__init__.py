"""Deep residual networks for image recognition: build, train and study them, from 8 to 1,202
layers.

`import residua` is light: a name imports its module, and with it torch where that is needed, when
it is first used."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residua.config.heads import Head as Head
    from residua.config.memory import activation_bytes
    from residua.config.model import ModelConfig
    from residua.config.network import Network, Order, Stage, Stem, Unit
    from residua.config.papers import list_models, network
    from residua.config.plan import plan
    from residua.config.recipe import Recipe, recipe
    from residua.config.run import Run
    from residua.errors import (
        DataError,
        Interrupted,
        RecordError,
        ResiduaError,
        TrainingError,
        UsageError,
    )
    from residua.net.build import build
    from residua.net.create import create_model
    from residua.net.model_folder import from_pretrained, save_pretrained

__version__ = version("residua")

HOMES = {
    "errors": "DataError Interrupted RecordError ResiduaError TrainingError UsageError",
    "net.build": "build",
    "net.create": "create_model",
    "net.model_folder": "from_pretrained save_pretrained",
    "config.memory": "activation_bytes",
    "config.model": "ModelConfig",
    "config.heads": "Head",
    "config.network": "Network Order Stage Stem Unit",
    "config.papers": "list_models network",
    "config.plan": "plan",
    "config.recipe": "Recipe recipe",
    "config.run": "Run",
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
