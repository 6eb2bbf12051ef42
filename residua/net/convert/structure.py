"""Match the tensors of a file with a network by their shapes and their order, not by their names.

The convolutions of a unit are used in the order in which its file registers them.  Where the
projection and the attention stand among them is one layout, the same for all units.  A layout is
possible if all shapes agree; the names may exclude it.  Weights are never guessed: if two layouts
remain, the file is refused.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from residua.config.network import Network
from residua.config.plan import plan
from residua.errors import RecordError
from residua.net.convert.file_modules import (
    FileModule,
    are_sorted,
    describe_first_tensors,
    group_into_modules,
    list_possible_orders,
)
from residua.net.convert.match import strip_trailing_ones
from residua.net.convert.name_hints import (
    contradicts_folders,
    contradicts_numbers,
    contradicts_words,
    has_certain_norms,
    joins_folders,
)
from residua.net.convert.positions import (
    HEAD_POSITION,
    ModulePosition,
    NamedShape,
    TensorShapes,
    list_expected_tensors,
)
from residua.net.convert.unit_layouts import (
    NetworkPositions,
    group_positions,
    list_layouts,
    order_norms,
    order_weights,
)

Assignment = dict[ModulePosition, FileModule]

STRUCTURE_CAVEAT = (
    "the names in the file are unknown, so its tensors were matched by shape and order: of equal "
    "shapes, the first in the file is taken for the first in use"
)


class UncertainOrderError(RecordError):
    """The shapes of a file fit a network in several ways."""


def match_by_structure(tensors: Mapping[str, Tensor], network: Network) -> TensorShapes:
    """Match the tensors of a file with the positions of `network` by shapes and order.

    A file without any BN matches a network with BN if its convolutions have biases.  Raises
    RecordError if there is no match, and UncertainOrderError if there may be several.
    """
    first = f"its first tensors are {describe_first_tensors(tensors)}"
    try:
        modules = group_into_modules(tensors)
    except RecordError as error:
        raise RecordError(f"{error}, so this is not {network.name}; {first}") from error
    fitting, matches = find_assignments(modules, network)
    if not fitting:
        raise RecordError(
            f"the file does not hold {network.name}, by name or by shape and order; {first}"
        )
    if len(matches) != 1:
        raise UncertainOrderError(
            f"the shapes in the file are those of {network.name}, but neither its names nor their "
            f"order tell for certain which of equal shapes is which; {first}"
        )
    return list_tensors_by_position(matches[0], tensors)


def find_assignments(
    modules: list[FileModule], network: Network
) -> tuple[list[Assignment], list[Assignment]]:
    """List the assignments of a file's modules to the positions of `network`.

    The first list has those that the shapes allow, the second those that the names allow as well.
    """
    expected = list_expected_tensors(plan(network))
    grouped = group_positions(expected)
    is_sorted = are_sorted([module.name for module in modules])
    fitting: list[Assignment] = []
    is_certain = True
    for ordered in list_possible_orders(modules):
        for assignment in assign_in_order(ordered, expected, grouped):
            if assignment in fitting or contradicts_folders(assignment):
                continue
            if not joins_folders(assignment):
                fitting.append(assignment)
                is_certain &= not contradicts_numbers(assignment, is_sorted)
                is_certain &= has_certain_norms(assignment, ordered)
    allowed = [assignment for assignment in fitting if not contradicts_words(assignment)]
    return fitting, allowed if is_certain else []


def assign_in_order(
    modules: list[FileModule], expected: TensorShapes, grouped: NetworkPositions
) -> Iterator[Assignment]:
    """Yield the assignments of modules in order of use whose shapes agree, one for each layout."""
    norms = [module for module in modules if module.is_norm]
    features = strip_trailing_ones(expected[HEAD_POSITION, "weight"].shape)[1:]
    for weights, head in split_off_head(modules):
        if any(module.shape[1:] != features for module in head.values()):
            continue
        for layout in list_layouts(grouped):
            weight_positions = order_weights(grouped, layout)
            norm_positions = order_norms(grouped, layout)
            positions, assigned = weight_positions + norm_positions, weights + norms
            if not norms:
                positions, assigned = weight_positions, weights
            if len(weight_positions) == len(weights) and fit_shapes(positions, assigned, expected):
                yield dict(zip(positions, assigned, strict=True)) | head


def split_off_head(modules: list[FileModule]) -> Iterator[tuple[list[FileModule], Assignment]]:
    """Yield the weights without the head, and the head; a file may have no head.

    The head is the last weight, or one that is outside all folders.
    """
    weights = [module for module in modules if not module.is_norm]
    depth = min((module.name.count(".") for module in weights), default=0)
    yield weights, {}
    for i in reversed(range(len(weights))):
        is_outside = i == len(weights) - 1 or weights[i].name.count(".") == depth
        if is_outside and len(weights[i].shape) <= 2:
            yield weights[:i] + weights[i + 1 :], {HEAD_POSITION: weights[i]}


def fit_shapes(
    positions: list[ModulePosition], modules: list[FileModule], expected: TensorShapes
) -> bool:
    return len(positions) == len(modules) and all(
        strip_trailing_ones(expected[position, "weight"].shape) == module.shape
        for position, module in zip(positions, modules, strict=True)
    )


def list_tensors_by_position(assignment: Assignment, tensors: Mapping[str, Tensor]) -> TensorShapes:
    positions = {module.name: position for position, module in assignment.items()}
    return {
        (positions[module], suffix): NamedShape(name, tuple(tensor.shape))
        for name, tensor in tensors.items()
        for module, _, suffix in [name.rpartition(".")]
        if module in positions
    }
