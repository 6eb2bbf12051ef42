"""Return the outputs of a network's stages, as backbones for detection and segmentation do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from residua.config.layers import Layer
from residua.config.plan import Plan
from residua.errors import UsageError
from residua.net.build import ResidualNetwork


class StageOutput(NamedTuple):
    """The output of a stage, or of the stem.

    reduction    the side of the images divided by the side of the output
    module_name  name of the module that computes the output
    """

    channels: int
    reduction: int
    module_name: str


@dataclass(frozen=True, slots=True)
class StageFeatureInfo:
    """Describes the feature maps that a `StageFeatures` returns, in their order."""

    outputs: tuple[StageOutput, ...]
    out_indices: tuple[int, ...]

    def channels(self) -> list[int]:
        """Return the number of channels of each feature map."""
        return [output.channels for output in self.outputs]

    def reduction(self) -> list[int]:
        """Return for each feature map how many times smaller its side is than that of the images.

        The map's side is that of the images divided by this number and rounded up.  It is smaller
        after a stem with an even kernel, which is not padded, and after a 2x2 max-pool of an odd
        side, which leaves out the last row.
        """
        return [output.reduction for output in self.outputs]

    def module_name(self) -> list[str]:
        """Return the name of the module that computes each feature map."""
        return [output.module_name for output in self.outputs]


class StageFeatures(nn.Module):
    """A network without its head: images (n, *input) -> list of feature maps (n, channels, *size).

    Output 0 is that of the stem, before its max-pool; output s is that of stage s.  `out_indices`
    selects the outputs and their order; negative indices count from the last stage, and None
    selects all.  The modules are those of `net`, not copies, under the same names.  Stages after
    the last selected one are left out.  Raises UsageError if there is no such output.
    """

    def __init__(self, net: ResidualNetwork, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        outputs = list_stage_outputs(net.plan)
        self.out_indices = resolve_out_indices(out_indices, len(outputs))
        self.feature_info = StageFeatureInfo(
            tuple(outputs[index] for index in self.out_indices), self.out_indices
        )
        pool_start = len(net.stem) - (net.plan.stem[-1].op == "maxpool")
        self.stem, self.stem_pool = net.stem[:pool_start], net.stem[pool_start:]
        stages = list(net.stages.items())[: max(self.out_indices)]
        self.stages = nn.ModuleDict(dict(stages))

    def forward(self, images: Tensor) -> list[Tensor]:
        feature_maps: list[Tensor] = [self.stem(images)]
        x = self.stem_pool(feature_maps[0])
        for stage in self.stages.values():
            x = stage(x)
            feature_maps.append(x)
        return [feature_maps[index] for index in self.out_indices]


def list_stage_outputs(plan: Plan) -> list[StageOutput]:
    """List the output of the stem, before its max-pool, and the output of each stage."""
    stem = [layer for layer in plan.stem if layer.op != "maxpool"]
    outputs = [StageOutput(stem[-1].output_shape.channels, multiply_strides(stem), "stem")]
    reduction = multiply_strides(plan.stem)
    for stage, units in groupby(plan.units, lambda unit: unit.stage):
        for unit in units:
            reduction *= multiply_strides(unit.lead + unit.branch)
            channels = unit.output_shape.channels
        outputs.append(StageOutput(channels, reduction, f"stages.stage{stage}"))
    return outputs


def multiply_strides(layers: Iterable[Layer]) -> int:
    return prod(layer.stride for layer in layers)


def resolve_out_indices(out_indices: Sequence[int] | None, output_count: int) -> tuple[int, ...]:
    """Return `out_indices` counted from 0; all indices for None.

    Raises UsageError if there are none, or if one is out of range.
    """
    if out_indices is None:
        return tuple(range(output_count))
    if not out_indices or not all(-output_count <= i < output_count for i in out_indices):
        raise UsageError(
            f"out_indices={tuple(out_indices)} is invalid: give one or more indices from 0 (the "
            f"stem) to {output_count - 1} (the last stage)"
        )
    return tuple(range(output_count)[i] for i in out_indices)
