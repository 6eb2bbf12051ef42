"""Which tensors a network's plan asks for, place by place, and why those of a file are not them.

A place is what a module is for, whatever it is called: the second convolution of the first unit of stage 3.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.plan import Layer, Layers, Plan, plan
from residua.errors import UsageError


class ModulePosition(NamedTuple):
    """A module's role, and where in the network it stands; all three numbers count from 1, and are 0 outside units."""

    role: str  # stem, stem norm, conv, norm, project, project norm, tail norm, head; or part: of a unit, we know not what
    stage: int = 0
    unit: int = 0
    layer: int = 0  # among a unit's convolutions or norms


class NamedShape(NamedTuple):
    """A tensor's name, ours or theirs, and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def output_count(self) -> int:
        """Outputs of a weight; 0 for a single number."""
        return self.shape[0] if self.shape else 0


TensorKey = tuple[ModulePosition, str]  # and the tensor's own name, such as running_mean
TensorShapes = dict[TensorKey, NamedShape]
LAYER_ROLES = {
    ("stem", "weight"): "stem",
    ("stem", "bn"): "stem norm",
    ("shortcut", "weight"): "project",
    ("shortcut", "bn"): "project norm",
    ("head", "bn"): "tail norm",
    ("head", "weight"): "head",
}
"""Of the layers of each part; a unit's other parts hold convolutions and norms."""
BATCH_COUNTER = "num_batches_tracked"  # BN's, unknown to files from before torch 0.4
HEAD_POSITION = ModulePosition("head")


def list_expected_tensors(planned: Plan) -> TensorShapes:
    """Our tensors.  UsageError for a network with parts that no other project has a name for."""
    expected: TensorShapes = {}
    for prefix, part, layers, (stage, unit), role_counts in iterate_plan_parts(planned):
        for i, layer in enumerate(layers):
            if layer.op in ("scale", "vlad") or part == "gate":
                raise UsageError(
                    f"{planned.network.name} has parts (gates, scales or VLAD) that other projects have no name for"
                )
            role = LAYER_ROLES.get((part, layer.op)) or {"weight": "conv", "bn": "norm"}.get(
                layer.op, ""
            )
            role_counts[role] += 1
            position = ModulePosition(
                role, stage, unit, role_counts[role] if role in ("conv", "norm") else 0
            )
            for name, shape in get_layer_tensor_shapes(layer).items():
                expected[position, name] = NamedShape(f"{prefix}.{i}.{name}", shape)
    return expected


def iterate_plan_parts(
    planned: Plan,
) -> Iterator[tuple[str, str, Layers, tuple[int, int], Counter[str]]]:
    """Our name of each row of layers, its part, the layers, stage and unit, and a count of roles that all of a unit shares."""
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
            yield (
                f"stages.stage{unit.stage}.{unit.index - 1}.{part}",
                part,
                layers,
                (unit.stage, unit.index),
                role_counts,
            )
    yield "head", "head", planned.head, (0, 0), Counter()


def get_layer_tensor_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer's module."""
    c = layer.output_shape.channels
    if layer.op == "bn":
        return {
            "weight": (c,),
            "bias": (c,),
            "running_mean": (c,),
            "running_var": (c,),
            BATCH_COUNTER: (),
        }
    if layer.op == "weight":
        kernel = (layer.kernel,) * len(layer.output_shape.size)
        return {"weight": (c, layer.input_shape.channels, *kernel)} | (
            {"bias": (c,)} if layer.bias else {}
        )
    return {}


def relabel_tail_norm(file_tensors: TensorShapes, expected: TensorShapes) -> TensorShapes:
    """A file's tensors with its only norm outside of units where we have ours: the same name stands for stem and tail."""
    stem, tail = ModulePosition("stem norm"), ModulePosition("tail norm")
    if (
        (tail, "weight") in expected
        and (tail, "weight") not in file_tensors
        and (stem, "weight") not in expected
    ):
        return {
            (tail if place == stem else place, name): entry
            for (place, name), entry in file_tensors.items()
        }
    return file_tensors


def explain_mismatch(file_tensors: TensorShapes, network: Network) -> str:
    """Why a file's tensors are not those of `network`, as a sentence; empty where they are, but for a head that is not there."""
    expected, name = list_expected_tensors(plan(network)), network.name
    file_tensors = relabel_tail_norm(file_tensors, expected)
    file_units, network_units = count_units_per_stage(file_tensors), count_units_per_stage(expected)
    if file_units != network_units:
        return f"the file has {' + '.join(map(str, file_units)) or 'no known'} units, {name} has {' + '.join(map(str, network_units))}"
    if (a := count_convs_per_unit(file_tensors)) != (b := count_convs_per_unit(expected)):
        return f"the file's units have {a} convolutions, those of {name} have {b}"
    file_projections, network_projections = [
        [key for key in entries if key[0].role == "project" and key[1] == "weight"]
        for entries in (file_tensors, expected)
    ]
    for key in file_projections:
        if key not in expected:
            return f"the file has a projection at the shortcut of {format_unit_name(key)} ({file_tensors[key].name}), {name} has none there"
    for key in network_projections:
        if key not in file_tensors:
            return f"the file has no projection at the shortcut of {format_unit_name(key)}, {name} has one there"
    wrong_shapes = [
        key
        for key in expected
        if key[0] != HEAD_POSITION
        and key in file_tensors
        and strip_trailing_ones(file_tensors[key].shape) != strip_trailing_ones(expected[key].shape)
    ]
    if wrong_shapes:
        entry, more = (
            file_tensors[wrong_shapes[0]],
            f", and so with {len(wrong_shapes) - 1} more" if wrong_shapes[1:] else "",
        )
        return f"{entry.name} is {format_tensor_shape(entry.shape)} where {name} wants {format_tensor_shape(expected[wrong_shapes[0]].shape)}{more}"
    if missing := [
        key
        for key in expected
        if key not in file_tensors
        and key[1] != BATCH_COUNTER
        and (key[0] != HEAD_POSITION or (HEAD_POSITION, "weight") in file_tensors)
    ]:
        listed = ", ".join(
            f"the {tensor} of {describe_position(place)}" for place, tensor in missing[:3]
        )
        return f"the file lacks {listed}{f' and {len(missing) - 3} more' if missing[3:] else ''}, which {name} wants"
    if unexpected := [entry.name for key, entry in file_tensors.items() if key not in expected]:
        listed = ", ".join(unexpected[:3]) + (
            f" and {len(unexpected) - 3} more" if unexpected[3:] else ""
        )
        return f"{name} has no place for {listed}"
    for key in [
        key
        for key in expected
        if key[0] == HEAD_POSITION
        and key in file_tensors
        and strip_trailing_ones(file_tensors[key].shape) != strip_trailing_ones(expected[key].shape)
    ]:
        entry, shape = file_tensors[key], expected[key].shape
        if (
            key[1] == "weight"
            and entry.shape
            and strip_trailing_ones(entry.shape)[1:] == strip_trailing_ones(shape)[1:]
        ):
            return f"{entry.name} is for {entry.output_count} classes, {name} has {network.classes}"
        return f"{entry.name} is {format_tensor_shape(entry.shape)} where {name} wants {format_tensor_shape(shape)}"
    return ""


def suggest_network(
    file_tensors: TensorShapes, network: Network, is_refused: Callable[[Network], object]
) -> str:
    """`: is it cifar-resnet56?` where a named network, not `refused`, has all of a file's tensors; those like `network` first."""
    head = file_tensors.get((HEAD_POSITION, "weight"))
    classes = head.output_count if head else network.classes
    for name in list_candidate_networks(file_tensors, network.name):
        try:
            candidate = network_of(name, input=network.input, classes=classes)
        except UsageError:  # no such depth
            continue
        same_unit_counts = tuple(
            stage.units for stage in candidate.stages
        ) == count_units_per_stage(file_tensors)  # or a plan of 100,000 layers is made for nothing
        if (
            same_unit_counts
            and candidate.name != network.name
            and not explain_mismatch(file_tensors, candidate)
            and not is_refused(candidate)
        ):
            return f": is it {name}?"
    return ""


def list_candidate_networks(file_tensors: TensorShapes, preferred_name: str) -> Iterator[str]:
    """Names of networks as deep as a file's."""
    if not count_units_per_stage(file_tensors):
        return
    depth = sum(count_units_per_stage(file_tensors)) * count_convs_per_unit(file_tensors) + 2
    first_width = file_tensors.get(
        (ModulePosition("conv", 1, 1, 1), "weight"), NamedShape("", (16,))
    ).output_count
    families = ["cifar-resnet", "resnet", "cifar-preresnet", "preresnet"]
    for family in sorted(families, key=lambda family: not re.match(rf"{family}\d", preferred_name)):
        for block in ("", ",block=bottleneck"):
            yield from (
                f"{family}{depth}{block}{shortcut}"
                for shortcut in ("", ",shortcut=A", ",shortcut=B", ",shortcut=C")
            )
    yield from (f"cifar-wrn{depth + 2}-{first_width // 16}", f"wide-resnet{depth}-2")


def count_units_per_stage(keys: Iterable[TensorKey]) -> tuple[int, ...]:
    """How many there are in each stage."""
    last_unit = Counter[int]()
    for place, _ in keys:
        if place.role == "conv":
            last_unit[place.stage] = max(last_unit[place.stage], place.unit)
    return tuple(last_unit[stage] for stage in range(1, max(last_unit, default=0) + 1))


def count_convs_per_unit(keys: Iterable[TensorKey]) -> int:
    return max((place.layer for place, _ in keys if place.role == "conv"), default=0)


def strip_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the 1s at its end: a 1x1 convolution's is that of a fully connected layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def format_unit_name(key: TensorKey) -> str:
    return f"stage{key[0].stage}.unit{key[0].unit}"


def describe_position(position: ModulePosition) -> str:
    """`norm 2 of stage3.unit1`."""
    role = position.role + (f" {position.layer}" if position.layer else "")
    return role + (f" of stage{position.stage}.unit{position.unit}" if position.stage else "")


def format_tensor_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
