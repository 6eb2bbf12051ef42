"""The published weights that are known by name.

Addresses, sums and accuracies are those that the publishers state: torchvision in its source,
timm in its tables of results, and the Hugging Face hub in its records of files.  Those that come
with residua were trained by it; experiments/packaged-models has the records.
"""

from collections.abc import Iterator
from math import floor
from pathlib import Path

from residua.bounded_json import read_json
from residua.config.model import Interpolation, ModelConfig
from residua.config.published_weights import PACKAGE_PREFIX, PACKAGED_MODELS, PublishedWeights
from residua.config.serialize import from_json

TORCHVISION_URL = "https://download.pytorch.org/models"
HUB_URL = "https://huggingface.co"
LICENCES_BY_TAG = {"fb": "cc-by-nc-4.0", "tv": "bsd-3-clause"}  # the others have timm's
HALVES = (0.5, 0.5, 0.5)
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and std
TORCHVISION_TABLE = (
    # network, file of V1, top-1 error, file of V2, top-1 error
    ("resnet18", "resnet18-f37072fd", 0.30242, "", 0.0),
    ("resnet34", "resnet34-b627a593", 0.26686, "", 0.0),
    ("resnet50", "resnet50-0676ba61", 0.2387, "resnet50-11ad3fa6", 0.19142),
    ("resnet101", "resnet101-63fe2227", 0.22626, "resnet101-cd907fc2", 0.18114),
    ("resnet152", "resnet152-394f9c45", 0.21688, "resnet152-f82ba261", 0.17716),
    ("wide_resnet50_2", "wide_resnet50_2-95faca4d", 0.21532, "wide_resnet50_2-9ba9bcbe", 0.18398),
    (
        *("wide_resnet101_2", "wide_resnet101_2-32ee1156", 0.21152),
        *("wide_resnet101_2-d733dc28", 0.1749),
    ),
    ("resnext50_32x4d", "resnext50_32x4d-7cdf4587", 0.22382, "resnext50_32x4d-1a0047aa", 0.18802),
    (
        *("resnext101_32x8d", "resnext101_32x8d-8ba56ff5", 0.20688),
        *("resnext101_32x8d-110c445d", 0.17166),
    ),
    ("resnext101_64x4d", "", 0.0, "resnext101_64x4d-173b62eb", 0.16754),
)
TIMM_TABLE = (
    # name, top-1 error, share of the resized image's side that the crop has
    ("resnet10t.c3_in1k", 0.31646, 0.95),
    ("resnet14t.c3_in1k", 0.27758, 0.95),
    ("resnet18.a1_in1k", 0.28496, 0.95),
    ("resnet18d.ra2_in1k", 0.27704, 0.875),
    ("resnet18d.ra4_e3600_r224_in1k", 0.25644, 0.9),
    ("resnet34.a1_in1k", 0.2358, 0.95),
    ("resnet34.ra4_e3600_r224_in1k", 0.22508, 0.9),
    ("resnet26d.bt_in1k", 0.23302, 0.875),
    ("resnet50.a1_in1k", 0.19618, 0.95),
    ("resnet50d.ra2_in1k", 0.19454, 0.875),
    ("resnet50d.a1_in1k", 0.1927, 0.95),
    ("resnet50d.ra4_e3600_r224_in1k", 0.19044, 0.95),
    ("resnet101.a1h_in1k", 0.1805, 0.95),
    ("resnet152.a1h_in1k", 0.17182, 0.95),
    ("resnet101d.ra2_in1k", 0.17746, 0.95),
    ("resnet152d.ra2_in1k", 0.1684, 0.95),
    ("resnet200d.ra2_in1k", 0.1675, 0.95),
    ("seresnet50.ra2_in1k", 0.1974, 0.875),
    ("seresnext50_32x4d.racm_in1k", 0.18732, 0.875),
    ("resnext50_32x4d.a1h_in1k", 0.1886, 0.95),
    ("wide_resnet50_2.racm_in1k", 0.18534, 0.875),
    ("resnetv2_18.ra4_e3600_r224_in1k", 0.26428, 0.9),
    ("resnetv2_34.ra4_e3600_r224_in1k", 0.22374, 0.9),
    ("resnetv2_50.a1h_in1k", 0.1959, 0.95),
    ("resnetv2_101.a1h_in1k", 0.17958, 0.95),
    ("resnet18.tv_in1k", None, 0.875),
    ("resnet50.tv_in1k", None, 0.875),
    ("resnet18.fb_swsl_ig1b_ft_in1k", 0.266, 0.875),
    ("resnet50.fb_swsl_ig1b_ft_in1k", 0.188, 0.875),
    ("resnext50_32x4d.fb_swsl_ig1b_ft_in1k", 0.178, 0.875),
)
MEASURED_AT_256 = ("resnet101d", "resnet152d", "resnet200d")
HUB_SUMS = {
    "resnet10t.c3_in1k": "6d2e44afde3d0e202275e55db2511651244b5400b41b815cd57f24b828e62892",
    "resnet14t.c3_in1k": "99c6297226f1c48db193d53893f452e36b442f9e0c7bd253b8f5fe7951a0ef6f",
    "resnet18.a1_in1k": "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
    "resnet18d.ra2_in1k": "0ad5d924c4269ad863590b6ccdd19f5fb48d0bae695c1dd6751de0b0282d8361",
    "resnet26d.bt_in1k": "43fa069f9736cd25599153d7dc7b387a9339193676d36e2c6d88d08631f4ed62",
    "resnet50.a1_in1k": "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
    "resnet50d.a1_in1k": "0b4f757b0732eb4c6584d2c3692923c3b92efe116b8a383fd4b5eb62fda660cb",
    "resnet50d.ra4_e3600_r224_in1k": (
        "dcfb320732ed8e1e2fe689f577b4116eae0b20272d3b762a187c5999f62ac5bd"
    ),
    "resnet101.a1h_in1k": "1a076c0384295e7d3704f201c5711ff245507db934230bab72ff3014a95f90fe",
    "resnet101d.ra2_in1k": "c2192596da2e8d652cbf0465b8694704247b524efb68ed194504af453830709c",
    "resnext50_32x4d.a1h_in1k": "b952952a7b3e856b16ebf82fb44d2aa8c502e73ec678976c9e3b970fcd530bd5",
    "resnetv2_34.ra4_e3600_r224_in1k": (
        "248e47c20c4e9b995099b5e39d8fb3396efd01d8b4befa2567eebcfa55ab5601"
    ),
    "resnet18.tv_in1k": "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    "resnet50.tv_in1k": "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    "resnet18.microsoft": "1cf00ee468998c23d084361b02cffadabacb5074105564c596b8079f77ecb126",
    "resnet34.microsoft": "1096166c7cf216a7320a6b67b754b1776b99205a44d070c6cb52429af2d136bb",
    "resnet50.microsoft": "9c6061af1f450bb0847e529fd742aa5066017be379c71bbf5546b198e5b13a1e",
}
HUB_REVISIONS = {  # where the whole one is known: the hub takes no shorter one
    "resnet18.a1_in1k": "ebd61f9c7420e5b5b53262b8ce6bbe311e1e872a",
    "resnet26d.bt_in1k": "a29cfccc5be0b0a26e795130bc9b5e7c87622dcb",
    "resnet50.a1_in1k": "5d9e13b8fdab4d9718bcf2c8f5c3af01878367e8",
}


def list_table_entries() -> Iterator[PublishedWeights]:
    """Yield the weights of torchvision, timm and Microsoft, then those that come with residua."""
    for network, first_file, first_error, second_file, second_error in TORCHVISION_TABLE:
        if first_file:
            yield make_torchvision_entry(network, "tv_v1", first_file, first_error, 256)
        if second_file:
            tag = "tv_v2" if first_file else "tv_v1"
            yield make_torchvision_entry(network, tag, second_file, second_error, 232)
    for name, error, crop in TIMM_TABLE:
        yield make_timm_entry(name, error, crop)
    for depth in (18, 34, 50):
        yield make_hub_entry(f"resnet{depth}.microsoft", f"microsoft/resnet-{depth}", None, 0.875)
    for config_file in sorted(PACKAGED_MODELS.glob("*/config.json")):
        yield read_packaged_entry(config_file.parent)


def read_packaged_entry(folder: Path) -> PublishedWeights:
    """Read the entry of weights that come with residua from their model folder."""
    config = from_json(ModelConfig, read_json(folder / "config.json"))
    return PublishedWeights(
        name=folder.name,
        network=config.network.name,
        address=f"{PACKAGE_PREFIX}{folder.name}",
        sha256=config.weights,
        licence=config.license,
        class_names=config.classes,
        mean=config.mean,
        std=config.std,
        side=config.input[1],
        resize=config.resize,
        interpolation=config.interpolation,
        top1_error=config.test_error,
        dataset=config.dataset,
    )


def name_network_in_file(short_name: str) -> str:
    """Return the name of the network that other projects call `short_name`.

    The papers' names stride on the first 1x1 convolution of a bottleneck, other projects on the
    3x3 convolution.
    """
    strides_by_name = ("resnet50", "resnet101", "resnet152")
    return f"{short_name},stride=3x3" if short_name in strides_by_name else short_name


def make_torchvision_entry(
    network: str, tag: str, file: str, error: float, resize: int
) -> PublishedWeights:
    """Make the entry of one of torchvision's files, whose name ends in 8 digits of its SHA-256."""
    return PublishedWeights(
        name=f"{network}.{tag}",
        network=name_network_in_file(network),
        address=f"{TORCHVISION_URL}/{file}.pth",
        sha256=file.rpartition("-")[2],
        licence="bsd-3-clause",
        resize=resize,
        top1_error=error,
    )


def make_timm_entry(name: str, error: float | None, crop: float) -> PublishedWeights:
    """Make the entry of one of timm's repositories on the Hugging Face hub."""
    tag = name.partition(".")[2]
    return make_hub_entry(
        name,
        f"timm/{name}",
        error,
        crop,
        licence=LICENCES_BY_TAG.get(tag.partition("_")[0], "apache-2.0"),
        interpolation="bilinear" if tag.startswith(("tv_", "fb_swsl")) else "bicubic",
        uses_half_statistics=tag.startswith("ra4_") or name.startswith("resnetv2_"),
    )


def make_hub_entry(
    name: str,
    repository: str,
    error: float | None,
    crop: float,
    *,
    licence: str = "apache-2.0",
    interpolation: Interpolation = "bicubic",
    uses_half_statistics: bool = False,
) -> PublishedWeights:
    """Make the entry of a repository on the hub; its shorter side is resized to side / crop."""
    short_name = name.partition(".")[0]
    side = 256 if short_name in MEASURED_AT_256 else 224
    revision = HUB_REVISIONS.get(name, "main")
    mean, std = (HALVES, HALVES) if uses_half_statistics else IMAGENET_STATISTICS
    return PublishedWeights(
        name=name,
        network=name_network_in_file(short_name),
        address=f"{HUB_URL}/{repository}/resolve/{revision}/model.safetensors",
        sha256=HUB_SUMS.get(name, ""),
        licence=licence,
        side=side,
        resize=floor(side / crop),
        interpolation=interpolation,
        top1_error=error,
        mean=mean,
        std=std,
    )
