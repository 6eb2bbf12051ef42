"""Parse and write the names that projects give to the parts of a residual network.

Every module with weights has a position, such as the second convolution of the first unit of stage
3 (see `positions`).  Each project has its own name for the module at a position.  Prefixes that
wrappers add (`module.`, `backbone.`, ...) are not listed here, but found in the file.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import get_args

from torch import Tensor

from residua.config.network import Network
from residua.config.plan import plan
from residua.errors import RecordError, UsageError, unknown_name_error
from residua.net.convert.name_templates import (
    FIELD_PATTERNS,
    NAME_TEMPLATES,
    NETWORK_ROLES,
    PROFILER_TENSORS,
    UNIT_ROLES,
    ExportProject,
)
from residua.net.convert.positions import (
    HEAD_POSITION,
    ModulePosition,
    NamedShape,
    TensorShapes,
    list_expected_tensors,
)
from residua.net.convert.state_dict import is_dense_tensor


class UnknownNamesError(RecordError):
    """The names in a file are those of no known project."""


def map_names_to_project(network: Network, project: ExportProject) -> dict[str, str]:
    """Return a dict from residua's tensor names to those of another project.

    Raises UsageError if the project has no name for one of the tensors.  timm uses torchvision's
    names, except for pre-activation nets, which are named as in timm's resnetv2.
    """
    if project not in get_args(ExportProject):
        raise unknown_name_error("project", str(project), get_args(ExportProject))
    preact = "bn" in network.unit.order.tail
    name_templates = NAME_TEMPLATES["torchvision" if project == "timm" and not preact else project]
    theirs_by_ours = {}
    for ((role, s, u, k), tensor), ours in list_expected_tensors(plan(network)).items():
        if role not in name_templates:
            hint = ": choose timm, which has" if role == "tail norm" else ""
            raise UsageError(
                f"{network.name} cannot be written for {project}, which has no {role}{hint}"
            )
        if network.unit.shortcut == "pool-project" and f"pooled {role}" in name_templates:
            role = f"pooled {role}"
        template = name_templates[role].split()[0]
        template = f"{name_templates['unit']}.{template}" if s else template
        module_name = template.format(
            s=s, s0=s - 1, u=u, u0=u - 1, k=k, k0=k - 1, k3=3 * k - 3, k3n=3 * k - 2
        )
        theirs_by_ours[ours.name] = f"{module_name}.{tensor}"
    return theirs_by_ours


def parse_tensor_names(tensors: Mapping[str, Tensor]) -> tuple[TensorShapes, str]:
    """Return the tensors of a file by position, and the project that uses such names.

    A tensor outside the units is skipped if its name is unknown.  Raises RecordError if the file
    holds no known residual network, or if a tensor is not dense.
    """
    modules = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    prefix = find_wrapper_prefix(modules)
    names = {module: strip_wrapper_prefix(module, prefix) for module in modules}
    positions = {
        module: correct_projection_role(parse_module_name(name), tensors.get(f"{module}.weight"))
        for module, name in names.items()
    }
    if HEAD_POSITION not in positions.values():
        positions |= dict.fromkeys(find_unnamed_head(tensors, positions), HEAD_POSITION)
    file_tensors: TensorShapes = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        position = positions[module]
        if position is not None and suffix not in PROFILER_TENSORS:
            if not is_dense_tensor(tensor):
                raise RecordError(f"{name} is sparse, nested or empty (meta): save dense tensors")
            key_name = name if position.role == "part" else suffix
            file_tensors.setdefault((position, key_name), NamedShape(name, tuple(tensor.shape)))
    projects = (
        project
        for name in names.values()
        for project in NAME_TEMPLATES
        if re.match(template_to_regex(NAME_TEMPLATES[project]["unit"]), name)
    )
    return file_tensors, next(projects, "others")


def correct_projection_role(
    position: ModulePosition | None, weight: Tensor | None
) -> ModulePosition | None:
    """Return the position of a module, with a projection told from a norm by its weight.

    After an average pool, projection and norm are the second and third module of a shortcut.
    """
    if position is not None and position.role == "project norm" and weight is not None:
        return position._replace(role="project norm" if weight.ndim < 2 else "project")
    return position


def find_unnamed_head(
    tensors: Mapping[str, Tensor], positions: Mapping[str, ModulePosition | None]
) -> list[str]:
    """Find a head of unknown name in a file by its shape: [its module], or [] if there is none.

    It is the only unknown module outside the units that has a weight, and its weight is a matrix
    with as many columns as the last convolution has outputs.
    """
    unknown_modules = [
        module
        for module, position in positions.items()
        if position is None and f"{module}.weight" in tensors
    ]
    convs = {
        position: tensors[f"{module}.weight"]
        for module, position in positions.items()
        if position and position.role == "conv" and f"{module}.weight" in tensors
    }
    if len(unknown_modules) != 1 or not convs:
        return []
    head_shape, conv_shape = tensors[f"{unknown_modules[0]}.weight"].shape, convs[max(convs)].shape
    is_matrix = len(head_shape) in (2, 4) and head_shape[2:].numel() == 1
    return unknown_modules if is_matrix and head_shape[1:2] == conv_shape[:1] else []


def find_wrapper_prefix(module_names: Collection[str]) -> str:
    """Find the prefix that wrappers have added to the module names, e.g. `module.`.

    The prefix is what precedes the name of the first convolution.  Raises RecordError if no known
    name of a first convolution is found, or if the names are residua's own.
    """
    own_unit = re.compile(r"(?:^|\.)stages\.stage\d+\.\d+\.branch\.")
    if any(own_unit.search(name) for name in module_names):
        raise RecordError(
            "the file already uses residua's own tensor names, as the model.safetensors of a model "
            "folder does: give the model folder instead of the file"
        )
    stems = [stem for _, stem in list_name_templates(["stem"])]
    stems += [stem.format(k=1, k3=0) for _, stem in list_name_templates(["deep stem"])]
    prefixes = [
        name.removesuffix(stem)
        for name in module_names
        for stem in stems
        if f".{name}".endswith(f".{stem}")
    ]
    units = "|".join(
        template_to_regex(names["unit"], named_groups=False) for names in NAME_TEMPLATES.values()
    )
    # a convolution inside a unit may have the name that is a stem's in another project
    prefixes = [prefix for prefix in prefixes if not re.search(rf"(?:^|\.)(?:{units})\.", prefix)]
    if not prefixes:
        examples = ", ".join([*module_names][:3])
        raise UnknownNamesError(
            f"the file contains no known residual network: none of its tensor names ({examples}, "
            "...) belongs to a first layer such as conv1 or stem.conv"
        )
    return min(prefixes, key=len)


def strip_wrapper_prefix(module_name: str, prefix: str) -> str:
    """Remove from a module name the leading components that it shares with `prefix`.

    The name may lack some or all components of the prefix, since the head is often outside the
    wrapped backbone.
    """
    components, prefix_components = module_name.split("."), prefix.split(".")[:-1]
    shared_count = next(
        (i for i, word in enumerate(prefix_components) if components[i : i + 1] != [word]),
        len(prefix_components),
    )
    return ".".join(components[shared_count:])


@cache
def parse_module_name(module_name: str) -> ModulePosition | None:
    """Parse a module's name, without the wrapper prefix, into the module's position.

    An unknown name gives the role "part" inside a unit, and None outside the units.
    """
    for names in NAME_TEMPLATES.values():
        if unit := re.match(template_to_regex(names["unit"]) + r"\.", f"{module_name}."):
            name_in_unit = f"{module_name}."[unit.end() :].removesuffix(".")
            s, u = parse_field_number(unit, "s"), parse_field_number(unit, "u")
            for role, template in list_name_templates(UNIT_ROLES):
                if layer := re.fullmatch(template_to_regex(template), name_in_unit):
                    return ModulePosition(role, s, u, parse_field_number(layer, "k"))
            return ModulePosition("part", s, u)
    for role, template in list_name_templates(NETWORK_ROLES):
        if layer := re.fullmatch(template_to_regex(template), module_name):
            return ModulePosition(role, layer=parse_field_number(layer, "k"))
    return None


def list_name_templates(roles: Iterable[str]) -> list[tuple[str, str]]:
    """List the templates of all projects for some roles, as (role, template) pairs."""
    return [
        (role, template)
        for names in NAME_TEMPLATES.values()
        for role in roles
        for template in names.get(role, "").split()
    ]


@cache
def template_to_regex(template: str, named_groups: bool = True) -> str:
    """Turn a template into a regular expression; each field, e.g. {u0}, becomes a group."""

    def field_to_group(field: re.Match[str]) -> str:
        opening = f"(?P<{field[1]}>" if named_groups else "(?:"
        pattern = FIELD_PATTERNS.get(field[1]) or FIELD_PATTERNS[field[1][0]]
        return f"{opening}{pattern})"

    return re.sub(r"\\{(\w+)\\}", field_to_group, re.escape(template))


def parse_field_number(match: re.Match[str], field: str) -> int:
    """Read the number of a stage (field "s"), unit ("u") or layer ("k") from a match.

    Numbers count from 1, even if the project counts from 0.  Returns 0 without such a field.
    """
    for name, text in match.groupdict().items():
        if name[0] == field:
            if name in ("k3", "k3n"):
                return int(text) // 3 + 1
            return ord(text) - ord("a") + 1 if name == "ka" else int(text) + name.endswith("0")
    return 0
