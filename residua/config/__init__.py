"""Frozen dataclasses that describe networks, data sets, recipes, runs and studies.

This package imports only the standard library.

network, stages, joins,
heads, norm, orders     the parts of a residual network: stem, stages, units, joins, head, BN
registry                the classes of parts, and how another module adds one
families, name_parts,
papers, paper_results   networks by name, and the results that the papers report for them
record_network          the network of the recipe `record`
plan, make_layers       a network's layers, parameter count and multiply-adds
memory                  estimates of memory, in bytes
dataset, fold           the data sets that are known by name, and folds of their training images
optimisers, schedules,
augmentation, recipe,
training_phases         how a network is trained
recipes,
imagenet_recipes        the recipes known by name
photo_storage           the ways to keep photographs for training
image_views             views of a test image whose predictions are averaged
run, study              a training run, and a comparison of many runs
model                   config.json of a model folder
vlad_config             the classical VLAD classifier
module_classifier       a classifier that is a PyTorch module of the user's own
evaluation_results,
lesion_results          results that reports read
serialize, checks       conversion to and from JSON, overrides, range checks
size_limits             the largest networks, images and names
hub_name                names on the Hugging Face hub: hf:OWNER/NAME
"""

from typing import TYPE_CHECKING

from residua.lazy import export_lazily

if TYPE_CHECKING:
    from residua.config.attention import Attention as Attention
    from residua.config.attention import EfficientAttention as EfficientAttention
    from residua.config.attention import SqueezeExcitation as SqueezeExcitation
    from residua.config.augmentation import Augmentation as Augmentation
    from residua.config.augmentation import BatchTransform as BatchTransform
    from residua.config.dataset import DATASETS as DATASETS
    from residua.config.dataset import Dataset as Dataset
    from residua.config.dataset import get_dataset as get_dataset
    from residua.config.evaluation_results import EvaluationResult as EvaluationResult
    from residua.config.heads import Head as Head
    from residua.config.heads import MaxPooling as MaxPooling
    from residua.config.heads import Pooling as Pooling
    from residua.config.image_views import ImageViews as ImageViews
    from residua.config.joins import Add as Add
    from residua.config.joins import Drop as Drop
    from residua.config.joins import Gate as Gate
    from residua.config.joins import Join as Join
    from residua.config.joins import Scale as Scale
    from residua.config.layers import Layer as Layer
    from residua.config.lesion_results import LesionStudyResult as LesionStudyResult
    from residua.config.lesion_results import NetworkLesionResult as NetworkLesionResult
    from residua.config.memory import RECOMPUTE_MODES as RECOMPUTE_MODES
    from residua.config.memory import MemoryEstimate as MemoryEstimate
    from residua.config.memory import RecomputeMode as RecomputeMode
    from residua.config.memory import activation_bytes as activation_bytes
    from residua.config.memory import estimate_run_memory as estimate_run_memory
    from residua.config.model import ImagePreprocessing as ImagePreprocessing
    from residua.config.model import ModelConfig as ModelConfig
    from residua.config.network import Network as Network
    from residua.config.network import Unit as Unit
    from residua.config.norm import BatchNorm as BatchNorm
    from residua.config.optimisers import AdamW as AdamW
    from residua.config.optimisers import Muon as Muon
    from residua.config.optimisers import Optimiser as Optimiser
    from residua.config.optimisers import RmsProp as RmsProp
    from residua.config.optimisers import Sgd as Sgd
    from residua.config.orders import ORDERS as ORDERS
    from residua.config.orders import Order as Order
    from residua.config.papers import compose_network_name as compose_network_name
    from residua.config.papers import list_models as list_models
    from residua.config.papers import split_network_name as split_network_name
    from residua.config.plan import Plan as Plan
    from residua.config.plan import PlannedUnit as PlannedUnit
    from residua.config.recipe import Recipe as Recipe
    from residua.config.recipes import RECIPES as RECIPES
    from residua.config.registry import Part as Part
    from residua.config.registry import register as register
    from residua.config.run import Run as Run
    from residua.config.run import parse_run as parse_run
    from residua.config.schedules import LinearDecay as LinearDecay
    from residua.config.schedules import OneCycle as OneCycle
    from residua.config.schedules import StepDecay as StepDecay
    from residua.config.schedules import Warmup as Warmup
    from residua.config.serialize import Json as Json
    from residua.config.serialize import apply_override as apply_override
    from residua.config.serialize import from_json as from_json
    from residua.config.serialize import to_json as to_json
    from residua.config.stages import Stage as Stage
    from residua.config.stages import Stem as Stem
    from residua.config.stages import StemStart as StemStart
    from residua.config.stages import Whitening as Whitening
    from residua.config.study import Arm as Arm
    from residua.config.study import Study as Study
    from residua.config.study import parse_study as parse_study
    from residua.config.vlad_config import ClassifierConfig as ClassifierConfig
    from residua.config.vlad_config import VladClassifier as VladClassifier
    from residua.config.vlad_config import make_vlad_classifier as make_vlad_classifier

__getattr__, __dir__ = export_lazily(
    __name__,
    {
        "attention": "Attention EfficientAttention SqueezeExcitation",
        "augmentation": "Augmentation BatchTransform",
        "dataset": "DATASETS Dataset get_dataset",
        "evaluation_results": "EvaluationResult",
        "heads": "Head MaxPooling Pooling",
        "image_views": "ImageViews",
        "joins": "Add Drop Gate Join Scale",
        "lesion_results": "LesionStudyResult NetworkLesionResult",
        "memory": (
            "RECOMPUTE_MODES MemoryEstimate RecomputeMode activation_bytes estimate_run_memory"
        ),
        "model": "ImagePreprocessing ModelConfig",
        "layers": "Layer",
        "network": "Network Unit",
        "norm": "BatchNorm",
        "optimisers": "AdamW Muon Optimiser RmsProp Sgd",
        "orders": "ORDERS Order",
        "papers": "compose_network_name list_models split_network_name",
        "plan": "Plan PlannedUnit",
        "recipe": "Recipe",
        "recipes": "RECIPES",
        "registry": "Part register",
        "run": "Run parse_run",
        "schedules": "LinearDecay OneCycle StepDecay Warmup",
        "serialize": "Json apply_override from_json to_json",
        "stages": "Stage Stem StemStart Whitening",
        "study": "Arm Study parse_study",
        "vlad_config": "ClassifierConfig VladClassifier make_vlad_classifier",
    },
)
