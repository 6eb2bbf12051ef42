"""Deep residual networks for image recognition: build, train and study them.

The packages, from the lowest layer to the highest; each `__init__` describes its contents:

config              descriptions of networks, plans, data sets, recipes, runs and studies
net, data           networks as PyTorch modules; images as batches
training            training step and loop, evaluation, checkpoints, multi-process training
studies, analysis   studies of many runs; measurements inside a network
deploy              prediction, explanation, export and serving
report              pages, figures and verdicts made from records
console             what is printed on a terminal
api                 the Python functions `train`, `load` and others
sklearn             a classifier for scikit-learn
cli                 the command line

`import residua` is fast: a public name's module, and torch if needed, is imported at first use.
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily
from residua.version import __version__ as __version__

if TYPE_CHECKING:
    from residua.api.classifier import Classifier, load
    from residua.api.network_signals import signals
    from residua.api.push import push
    from residua.api.studies import lesion, study
    from residua.api.surgery import deepen, residualize
    from residua.api.train import train
    from residua.api.training_session import TrainingResult
    from residua.config.heads import Head
    from residua.config.memory import activation_bytes
    from residua.config.model import ModelConfig
    from residua.config.network import Network, Unit
    from residua.config.orders import Order
    from residua.config.papers import list_models, network
    from residua.config.plan import plan
    from residua.config.recipe import Recipe
    from residua.config.recipes import recipe
    from residua.config.registry import register
    from residua.config.run import Run
    from residua.config.stages import Stage, Stem
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

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "api.classifier": "Classifier load",
        "api.network_signals": "signals",
        "api.push": "push",
        "api.studies": "lesion study",
        "api.surgery": "deepen residualize",
        "api.train": "train",
        "api.training_session": "TrainingResult",
        "errors": "DataError Interrupted RecordError ResiduaError TrainingError UsageError",
        "net.build": "build",
        "net.create": "create_model",
        "net.model_folder": "from_pretrained save_pretrained",
        "config.memory": "activation_bytes",
        "config.model": "ModelConfig",
        "config.heads": "Head",
        "config.network": "Network Unit",
        "config.orders": "Order",
        "config.papers": "list_models network",
        "config.plan": "plan",
        "config.recipe": "Recipe",
        "config.recipes": "recipe",
        "config.registry": "register",
        "config.run": "Run",
        "config.stages": "Stage Stem",
    },
)

__all__ = [
    "Classifier",
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
    "TrainingResult",
    "Unit",
    "UsageError",
    "activation_bytes",
    "build",
    "create_model",
    "deepen",
    "from_pretrained",
    "lesion",
    "list_models",
    "load",
    "network",
    "plan",
    "push",
    "recipe",
    "register",
    "residualize",
    "save_pretrained",
    "signals",
    "study",
    "train",
]
