"""Suggest a network for a name that people use elsewhere, or for a misspelt name."""

import re
from collections.abc import Iterable

from residua.errors import UsageError, unknown_name_error

SPELLINGS = (
    (r"(?:tv_|tv-)?(resnet[0-9]+)(?:b|_?-?v1[._]?[5b])", r"\1,stride=3x3"),
    (r"tv_(resnet[0-9]+)", r"\1,stride=3x3"),
    (r"(?:se[-_]?resnet)[-_]?([0-9]+)", r"seresnet\1"),
    (r"(se)?[-_]?resnext[-_]?(50|101)", r"\1resnext\2_32x4d"),
    (r"(?:tv_|ig_|gluon_)((?:se)?resnext[0-9]+_[0-9]+x[0-9]+d)", r"\1"),
    (r"resnet[-_]?([0-9]+)[-_]?v2", r"resnetv2_\1"),
    (r"resnetbc(14|26|38)b", r"resnet\1,block=bottleneck"),
    (
        r"(?:cifar[-_])?(?:wrn|wide[-_]?resnet)[-_]?(10|16|22|28|34|40)[-_]([0-9]+)",
        r"cifar-wrn\1-\2",
    ),
    (r"(?:wrn|wide[-_]?resnet)[-_]?(50|101)[-_]([0-9]+)", r"wide_resnet\1_\2"),
    (r"((?:cifar[-_])?(?:pre)?)[-_]?resnet[-_]?([0-9]+)[-_]?([cdst]?)", r"\1resnet\2\3"),
)
"""Spellings of other projects, in lower case, with the names that the networks have here."""
OTHER_FAMILIES = re.compile(
    r"alexnet|convnext|densenet|dla|dpn|efficientnet|googlenet|inception|mobilenet|mnasnet|nfnet|"
    r"pyramid|regnet|repvgg|res2ne|resmlp|resnest|senet|shufflenet|squeezenet|swin|vgg|vit|"
    r"xception|skresn|hrnet|(?:eca_|halo|bot)net"
)
"""Families of networks that residua does not have, some of them with similar names."""


def unknown_network_error(name: str, listed_names: Iterable[str]) -> UsageError:
    """Make the error for an unknown network, with the network of this name in other projects.

    A name with other numbers is never suggested: `densenet121` is not `resnet12`.
    """
    lowered = name.lower()
    for spelling, ours in SPELLINGS:
        if match := re.fullmatch(spelling, lowered):
            suggestion = match.expand(ours).replace("cifar_", "cifar-")
            if suggestion != name:
                return UsageError(f"there is no network {name!r}: did you mean {suggestion!r}?")
    if OTHER_FAMILIES.search(lowered):
        return UsageError(
            f"there is no network {name!r}: it is of another family; residua models lists the "
            "residual networks"
        )
    numbers = re.findall(r"[0-9]+", name)
    similar = [
        known for known in listed_names if re.findall(r"[0-9]+", known)[: len(numbers)] == numbers
    ]
    if numbers and similar:
        error = unknown_name_error("network", name, similar)
        if "did you mean" in str(error):
            return error
    return UsageError(
        f"there is no network {name!r}: residua models lists the networks, and other depths can "
        "be written, as in cifar-resnet74"
    )
