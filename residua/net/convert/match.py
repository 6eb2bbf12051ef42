"""Compare the tensors of a file with those of a network, and explain the first difference."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.plan import plan
from residua.errors import UsageError
from residua.net.convert.positions import (
    BATCH_COUNTER,
    HEAD_POSITION,
    ModulePosition,
    NamedShape,
    TensorKey,
    TensorShapes,
    count_classes,
    list_expected_tensors,
)


def relabel_stem_norm_as_tail(file_tensors: TensorShapes, expected: TensorShapes) -> TensorShapes:
    """Return the tensors of a file, with its stem norm relabelled as tail norm if necessary.

    Some projects use the same name for the norm after the stem and the norm before the head.  A
    norm with this name is first taken for a stem norm.  It is relabelled if the network, whose
    tensors are `expected`, has a tail norm but no stem norm.
    """
    stem, tail = ModulePosition("stem norm"), ModulePosition("tail norm")
    if (
        (tail, "weight") in expected
        and (tail, "weight") not in file_tensors
        and (stem, "weight") not in expected
    ):
        return {
            (tail if position == stem else position, name): entry
            for (position, name), entry in file_tensors.items()
        }
    return file_tensors


def explain_mismatch(file_tensors: TensorShapes, network: Network) -> str:
    """Explain how the tensors of a file differ from those of `network`; return "" if they match.

    Only the first difference is explained.  A file that lacks only the head matches.
    """
    expected = list_expected_tensors(plan(network))
    file_tensors = relabel_stem_norm_as_tail(file_tensors, expected)
    return (
        explain_unit_mismatch(file_tensors, expected, network.name)
        or explain_projection_mismatch(file_tensors, expected, network.name)
        or explain_pool_mismatch(file_tensors, network)
        or explain_body_shape_mismatch(file_tensors, expected, network.name)
        or explain_missing_tensors(file_tensors, expected, network.name)
        or explain_unexpected_tensors(file_tensors, expected, network.name)
        or explain_head_mismatch(file_tensors, expected, network)
    )


def explain_unit_mismatch(file_tensors: TensorShapes, expected: TensorShapes, name: str) -> str:
    file_units, network_units = count_units_per_stage(file_tensors), count_units_per_stage(expected)
    if file_units != network_units:
        file_counts = " + ".join(map(str, file_units)) or "no known"
        network_counts = " + ".join(map(str, network_units))
        return f"the file has {file_counts} units, {name} has {network_counts}"
    file_convs, network_convs = count_convs_per_unit(file_tensors), count_convs_per_unit(expected)
    if file_convs != network_convs:
        return (
            f"the file's units have {file_convs} convolutions, those of {name} have {network_convs}"
        )
    return ""


def explain_projection_mismatch(
    file_tensors: TensorShapes, expected: TensorShapes, name: str
) -> str:
    file_projections, network_projections = [
        [key for key in tensors if key[0].role == "project" and key[1] == "weight"]
        for tensors in (file_tensors, expected)
    ]
    for key in file_projections:
        if key not in expected:
            return (
                f"the file has a projection at the shortcut of {format_unit_name(key)} "
                f"({file_tensors[key].name}), {name} has none there"
            )
    for key in network_projections:
        if key not in file_tensors:
            return (
                f"the file has no projection at the shortcut of {format_unit_name(key)}, "
                f"{name} has one there"
            )
    return ""


def explain_pool_mismatch(file_tensors: TensorShapes, network: Network) -> str:
    """Explain that something precedes the projections of either the file or the network alone.

    In a file that numbers the modules of a shortcut, a projection with the number 1 follows a
    module without weights: the average pool of ResNet-D.
    """
    numbers = {
        entry.name.split(".")[-2]
        for (position, tensor), entry in file_tensors.items()
        if position.role == "project" and tensor == "weight"
    }
    if network.unit.shortcut == "pool-project" and numbers == {"0"}:
        return (
            f"the file's shortcuts begin with their projections, those of {network.name} with an "
            "average pool"
        )
    if network.unit.shortcut in ("project", "project-all") and numbers == {"1"}:
        return (
            "the file's shortcuts have a module before their projections, such as an average pool, "
            f"those of {network.name} have none"
        )
    return ""


def explain_body_shape_mismatch(
    file_tensors: TensorShapes, expected: TensorShapes, name: str
) -> str:
    wrong_keys = [
        key for key in list_wrong_shapes(file_tensors, expected) if key[0] != HEAD_POSITION
    ]
    if not wrong_keys:
        return ""
    more = f"; {len(wrong_keys) - 1} more shapes differ" if wrong_keys[1:] else ""
    return format_shape_difference(file_tensors, expected, wrong_keys[0], name) + more


def explain_missing_tensors(file_tensors: TensorShapes, expected: TensorShapes, name: str) -> str:
    has_head = (HEAD_POSITION, "weight") in file_tensors
    missing = [
        f"the {tensor} of {describe_position(position)}"
        for position, tensor in expected
        if (position, tensor) not in file_tensors
        and tensor != BATCH_COUNTER
        and (position != HEAD_POSITION or has_head)
    ]
    return f"the file lacks {list_first_three(missing)}, which {name} needs" if missing else ""


def explain_unexpected_tensors(
    file_tensors: TensorShapes, expected: TensorShapes, name: str
) -> str:
    unexpected = [entry.name for key, entry in file_tensors.items() if key not in expected]
    return f"{name} has no place for {list_first_three(unexpected)}" if unexpected else ""


def explain_head_mismatch(
    file_tensors: TensorShapes, expected: TensorShapes, network: Network
) -> str:
    for key in list_wrong_shapes(file_tensors, expected):
        entry, shape = file_tensors[key], expected[key].shape
        only_classes_differ = (
            key[1] == "weight"
            and entry.shape
            and strip_trailing_ones(entry.shape)[1:] == strip_trailing_ones(shape)[1:]
        )
        if only_classes_differ:
            return (
                f"{entry.name} is for {entry.output_count} classes, "
                f"{network.name} has {network.classes}"
            )
        return format_shape_difference(file_tensors, expected, key, network.name)
    return ""


def list_wrong_shapes(file_tensors: TensorShapes, expected: TensorShapes) -> list[TensorKey]:
    """List the keys whose shapes differ between the file and the network, ignoring trailing 1s."""
    return [
        key
        for key, entry in expected.items()
        if key in file_tensors
        and strip_trailing_ones(file_tensors[key].shape) != strip_trailing_ones(entry.shape)
    ]


def suggest_network(
    file_tensors: TensorShapes, network: Network, is_refused: Callable[[Network], object]
) -> str:
    """Suggest a network in an error message, e.g. ": is it resnet18?"; "" if none matches a file.

    Networks of the same family as `network` are tried first.  A network for which `is_refused`
    returns a true value is not suggested.
    """
    classes = count_classes(file_tensors) if has_head(file_tensors) else network.classes
    for name in list_candidate_networks(file_tensors, network.name):
        try:
            candidate = network_of(name, input=network.input, classes=classes)
        except UsageError:  # no network of this depth
            continue
        if (
            candidate.name != network.name
            # checked first: a file may claim 100,000 layers, and the plan would take too long
            and has_same_unit_counts(candidate, file_tensors)
            and not explain_mismatch(file_tensors, candidate)
            and not is_refused(candidate)
        ):
            return f": is it {name}?"
    return ""


def has_head(file_tensors: TensorShapes) -> bool:
    return (HEAD_POSITION, "weight") in file_tensors


def has_same_unit_counts(network: Network, file_tensors: TensorShapes) -> bool:
    return tuple(stage.units for stage in network.stages) == count_units_per_stage(file_tensors)


def list_candidate_networks(file_tensors: TensorShapes, preferred_name: str) -> Iterator[str]:
    """Yield names of networks of the file's depth, starting with the family of `preferred_name`.

    Some of these names may not exist.
    """
    units_per_stage = count_units_per_stage(file_tensors)
    if not units_per_stage:
        return
    depth = sum(units_per_stage) * count_convs_per_unit(file_tensors) + 2
    first_conv = file_tensors.get(
        (ModulePosition("conv", 1, 1, 1), "weight"), NamedShape("", (16,))
    )
    families = ["cifar-resnet", "resnet", "cifar-preresnet", "preresnet"]
    for family in sorted(families, key=lambda family: not re.match(rf"{family}\d", preferred_name)):
        for block in ("", ",block=bottleneck"):
            for shortcut in ("", ",shortcut=A", ",shortcut=B", ",shortcut=C"):
                yield f"{family}{depth}{block}{shortcut}"
    yield f"cifar-wrn{depth + 2}-{first_conv.output_count // 16}"
    yield f"wide-resnet{depth}-2"


def count_units_per_stage(keys: Iterable[TensorKey]) -> tuple[int, ...]:
    """Count the units in each stage; 0 for a stage without convolutions."""
    last_unit = Counter[int]()
    for position, _ in keys:
        if position.role == "conv":
            last_unit[position.stage] = max(last_unit[position.stage], position.unit)
    return tuple(last_unit[stage] for stage in range(1, max(last_unit, default=0) + 1))


def count_convs_per_unit(keys: Iterable[TensorKey]) -> int:
    """Return the largest number of convolutions in a unit; 0 if there are none."""
    return max((position.layer for position, _ in keys if position.role == "conv"), default=0)


def strip_trailing_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strip trailing 1s off a shape, so that a 1x1 convolution matches a fully connected layer."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def format_unit_name(key: TensorKey) -> str:
    return f"stage{key[0].stage}.unit{key[0].unit}"


def describe_position(position: ModulePosition) -> str:
    """Describe the position in words, e.g. `norm 2 of stage3.unit1`."""
    role = position.role + (f" {position.layer}" if position.layer else "")
    return role + (f" of stage{position.stage}.unit{position.unit}" if position.stage else "")


def format_shape_difference(
    file_tensors: TensorShapes, expected: TensorShapes, key: TensorKey, name: str
) -> str:
    entry = file_tensors[key]
    file_shape, network_shape = (
        format_tensor_shape(entry.shape),
        format_tensor_shape(expected[key].shape),
    )
    return f"{entry.name} is {file_shape}, but {name} needs {network_shape}"


def format_tensor_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def describe_last_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Describe the names and shapes of the last four tensors of a file, e.g. `fc.weight 10x64`."""
    return ", ".join(
        f"{name} {format_tensor_shape(tuple(tensors[name].shape))}" for name in [*tensors][-4:]
    )


def list_first_three(names: Sequence[str]) -> str:
    """Join the first three names and count the rest, e.g. `a, b, c and 4 more`."""
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return ", ".join(names[:3]) + more
