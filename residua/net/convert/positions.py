"""Identify the tensors of a network by position, independently of any project's names.

A position is, for example, the second convolution of the first unit of stage 3.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from residua.config.layers import Layer, Layers
from residua.config.plan import Plan
from residua.errors import UsageError


class ModulePosition(NamedTuple):
    """The role of a module and its place in the network.

    The roles are stem, stem norm, conv, norm, project, project norm, tail norm and head; "deep
    stem" and "deep stem norm" are the layers of a stem with several, except its last norm;
    "attention fc1", "attention fc2" and "attention conv" are the layers of an attention; "part" is
    any other module of a unit.  Numbers count from 1, and are 0 where they do not apply.
    """

    role: str
    stage: int = 0
    unit: int = 0
    layer: int = 0  # number among the convolutions or norms of a unit or a deep stem


class NamedShape(NamedTuple):
    """A tensor's name, in residua or in another project, and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def output_count(self) -> int:
        """The number of outputs of a weight, i.e. its first dimension; 0 for a scalar."""
        return self.shape[0] if self.shape else 0


TensorKey = tuple[ModulePosition, str]  # a position and a tensor's own name, e.g. running_mean
TensorShapes = dict[TensorKey, NamedShape]
BATCH_COUNTER = "num_batches_tracked"  # of a BN; files written before torch 0.4 have none
HEAD_POSITION = ModulePosition("head")
NUMBERED_ROLES = ("conv", "norm", "deep stem", "deep stem norm")
LAYER_ROLES = {
    ("stem", "weight"): "stem",
    ("stem", "bn"): "stem norm",
    ("shortcut", "weight"): "project",
    ("shortcut", "bn"): "project norm",
    ("head", "bn"): "tail norm",
    ("head", "weight"): "head",
}
"""The role of a layer, by (part, operation); any other layer of a unit is a conv or a norm."""


def list_expected_tensors(planned: Plan) -> TensorShapes:
    """List the tensors of a network by position, with their names in residua and their shapes.

    Raises UsageError if the network has a part that no other project has, such as a gate.
    """
    expected: TensorShapes = {}
    for prefix, part, layers, (stage, unit), role_counts in iterate_plan_parts(planned):
        for i, layer in enumerate(layers):
            if layer.attention is not None:
                expected |= list_attention_tensors(layer, f"{prefix}.{i}", (stage, unit))
                continue
            if layer.op in ("scale", "vlad") or part == "gate":
                raise UsageError(
                    f"{planned.network.name} cannot be converted: it has parts (gates, scales or "
                    "VLAD) that other projects have no name for"
                )
            unit_role = {"weight": "conv", "bn": "norm"}.get(layer.op, "")
            role = LAYER_ROLES.get((part, layer.op)) or unit_role
            if part == "stem" and planned.network.stem.inner_widths:
                is_before_weight = any(later.op == "weight" for later in layers[i + 1 :])
                if layer.op == "weight" or is_before_weight:
                    role = {"weight": "deep stem", "bn": "deep stem norm"}.get(layer.op, "")
            role_counts[role] += 1
            layer_number = role_counts[role] if role in NUMBERED_ROLES else 0
            position = ModulePosition(role, stage, unit, layer_number)
            for name, shape in get_layer_tensor_shapes(layer).items():
                expected[position, name] = NamedShape(f"{prefix}.{i}.{name}", shape)
    return expected


def list_attention_tensors(layer: Layer, prefix: str, unit: tuple[int, int]) -> TensorShapes:
    """List the tensors of an attention layer, whose module has the name `prefix`."""
    assert layer.attention is not None
    shapes = layer.attention.parameter_shapes(layer.input_shape.channels)
    return {
        (ModulePosition(f"attention {name.rpartition('.')[0]}", *unit), name.rpartition(".")[2]): (
            NamedShape(f"{prefix}.{name}", shape)
        )
        for name, shape in shapes.items()
    }


def iterate_plan_parts(
    planned: Plan,
) -> Iterator[tuple[str, str, Layers, tuple[int, int], Counter[str]]]:
    """Yield each part of a network as (prefix, part, layers, (stage, unit), role counts).

    The names of the part's tensors in residua start with the prefix.  The role counts are a counter
    in which the caller must count the role of each layer.  All parts of a unit share one counter,
    so that the convolutions of a unit are numbered consecutively.
    """
    yield "stem", "stem", planned.stem, (0, 0), Counter()
    for unit in planned.units:
        role_counts: Counter[str] = Counter()
        unit_parts = {
            "lead": unit.lead,
            "branch": unit.branch,
            "after": unit.after,
            "shortcut": unit.shortcut or (),
            "gate": unit.gate,
        }
        for part, layers in unit_parts.items():
            prefix = f"stages.stage{unit.stage}.{unit.index - 1}.{part}"
            yield prefix, part, layers, (unit.stage, unit.index), role_counts
    yield "head", "head", planned.head, (0, 0), Counter()


def get_layer_tensor_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer's tensors, by name within its module, e.g. `weight`."""
    c = layer.output_shape.channels
    if layer.op == "bn":
        vectors = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (c,))
        return {**vectors, BATCH_COUNTER: ()}
    if layer.op == "weight":
        kernel = (layer.kernel,) * len(layer.output_shape.size)
        weight = {"weight": (c, layer.input_shape.channels // layer.groups, *kernel)}
        return weight | ({"bias": (c,)} if layer.bias else {})
    return {}


def count_classes(file_tensors: Mapping[TensorKey, NamedShape]) -> int:
    """Count the classes of the head in a file; 0 if the file has no head."""
    head = file_tensors.get((HEAD_POSITION, "weight"))
    return head.output_count if head else 0
