"""The names that other projects give to the modules of a residual network, as templates."""

from typing import Literal

ExportProject = Literal["torchvision", "timm", "huggingface"]
NAME_TEMPLATES: dict[str, dict[str, str]] = {
    "torchvision": {  # also timm, and most code for CIFAR
        "stem": "conv1",
        "stem norm": "bn1",
        "unit": "layer{s}.{u0}",
        "conv": "conv{k}",
        "norm": "bn{k}",
        "project": "downsample.0",
        "project norm": "downsample.1 downsample.2",
        "pooled project": "downsample.1",
        "pooled project norm": "downsample.2",
        "head": "fc",
        "deep stem": "conv1.{k3}",
        "deep stem norm": "conv1.{k3n}",
        "attention fc1": "se.fc1",
        "attention fc2": "se.fc2",
        "attention conv": "se.conv",
    },
    "timm": {  # only its resnetv2
        "stem": "stem.conv",
        "deep stem": "stem.conv{k}",
        "deep stem norm": "stem.norm{k}",
        "tail norm": "norm",
        "unit": "stages.{s0}.blocks.{u0}",
        "conv": "conv{k}",
        "norm": "norm{k}",
        "project": "downsample.conv",
        "project norm": "downsample.norm",
        "head": "head.fc",
    },
    "huggingface": {
        "stem": "resnet.embedder.embedder.convolution",
        "stem norm": "resnet.embedder.embedder.normalization",
        "unit": "resnet.encoder.stages.{s0}.layers.{u0}",
        "conv": "layer.{k0}.convolution",
        "norm": "layer.{k0}.normalization",
        "project": "shortcut.convolution",
        "project norm": "shortcut.normalization",
        "head": "classifier.1",
    },
    "pytorchcv": {
        "stem": "features.init_block.conv.conv features.init_block.conv features.init_block",
        "stem norm": (
            "features.init_block.conv.bn features.init_block.bn features.init_block.conv3.bn"
        ),
        "deep stem": "features.init_block.conv{k}.conv",
        "deep stem norm": "features.init_block.conv{k}.bn",
        "attention fc1": "se.conv1 se.fc1",
        "attention fc2": "se.conv2 se.fc2",
        "tail norm": "features.post_activ.bn",
        "unit": "features.stage{s}.unit{u}",
        "conv": "body.conv{k}.conv",
        "norm": "body.conv{k}.bn",
        "project": "identity_conv.conv identity_conv identity_block.conv.conv",
        "project norm": "identity_conv.bn identity_block.conv.bn",
        "head": "output",
    },
    "WideResNet-pytorch": {"unit": "block{s}.layer.{u0}", "project": "convShortcut"},
    "others": {  # akamaster, kuangliu, D-X-Y
        "stem": "conv_1_3x3",
        "stem norm": "bn_1",
        "tail norm": "bn",
        "unit": "stage_{s}.{u0}",
        "conv": "conv_{ka}",
        "norm": "bn_{ka}",
        "project": "shortcut.0 shortcut downsample",
        "project norm": "shortcut.1",
        "attention fc1": "se.fc.0 se_module.fc1",
        "attention fc2": "se.fc.2 se_module.fc2",
        "head": "linear classifier last_linear",
    },
}
"""The module name templates of each project, by role.

Templates of roles inside a unit are relative to the name of the unit.  {s}, {u} and {k} are the
numbers of stage, unit and layer, from 1; {s0}, {u0} and {k0} are these numbers from 0; {ka} is the
layer as a letter, from a; {k3} and {k3n} count convolutions and norms in an nn.Sequential of
convolution, norm and ReLU in turn.  Alternatives are separated by spaces.
"""

NETWORK_ROLES = ("stem", "stem norm", "deep stem", "deep stem norm", "tail norm", "head")
ATTENTION_ROLES = ("attention fc1", "attention fc2", "attention conv")
UNIT_ROLES = ("conv", "norm", "project", "project norm", *ATTENTION_ROLES)
PROFILER_TENSORS = ("total_ops", "total_params")  # left in every module by the profiler thop
FIELD_PATTERNS = {
    "s": r"\d{1,2}",
    "u": r"\d{1,4}",
    "k": r"\d{1,2}",
    "ka": "[a-z]",
    "k3": "[0369]",
    "k3n": "[147]",
}
"""Regular expressions for the numbers of a stage (s), a unit (u) and a layer (k, ka, k3, k3n)."""
