"""Check an assignment of modules by what their names tell: folders, numbers and known words."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

from residua.net.convert.file_modules import FileModule, split_numbers
from residua.net.convert.positions import ModulePosition

Assignment = dict[ModulePosition, FileModule]
Owner = tuple[int, int]  # stage and unit; (0, 0) outside the units

SHORTCUT_WORDS = re.compile(r"down_?sampl|short_?cut|skip|ident|proj", re.IGNORECASE)
ATTENTION_WORDS = re.compile(r"(?:^|[._])(?:se|eca|att\w*|excit\w*|squeeze\w*)(?=[._0-9]|$)")


def contradicts_folders(assignment: Assignment) -> bool:
    """Return whether a folder of modules is cut: it holds parts of two units, or of one and others.

    A folder, such as layer1.0, may be part of a unit, or hold whole units.
    """
    unit_sizes = Counter((position.stage, position.unit) for position in assignment)
    contents: defaultdict[str, Counter[Owner]] = defaultdict(Counter)
    for position, module in assignment.items():
        folder = module.name
        while folder := folder.rpartition(".")[0]:
            contents[folder][position.stage, position.unit] += 1
    return any(
        len(counts) > 1 and any(counts[owner] < unit_sizes[owner] for owner in counts if owner[0])
        for counts in contents.values()
    )


def joins_folders(assignment: Assignment) -> bool:
    """Return whether a unit consists of several folders, and more of their kind are elsewhere.

    Then the folders are units of another kind, e.g. of one layer each.
    """
    names: defaultdict[Owner, list[str]] = defaultdict(list)
    for position, module in assignment.items():
        names[position.stage, position.unit].append(module.name)
    all_names = [module.name for module in assignment.values()]
    for unit, unit_names in names.items():
        folder = find_common_folder(unit_names)
        is_alone = folder and sum(name.startswith(f"{folder}.") for name in all_names) == len(
            unit_names
        )
        is_in_subfolders = all(
            name.count(".") > folder.count(".") + bool(folder) for name in unit_names
        )
        if unit[0] and not is_alone and is_in_subfolders:
            return True
    return False


def find_common_folder(names: list[str]) -> str:
    words = [name.split(".")[:-1] for name in names]
    common = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)


def contradicts_numbers(assignment: Assignment, is_sorted: bool) -> bool:
    """Return whether names that differ in their numbers count down, e.g. conv2 before conv1.

    In a file whose names are sorted, names of equal shapes that do not count up are contradictions
    too: its order is not that of use.
    """
    by_role: defaultdict[str, list[tuple[ModulePosition, FileModule]]] = defaultdict(list)
    for position, module in sorted(assignment.items()):
        if position.layer or position.role in ("project", "project norm"):
            by_role[position.role].append((position, module))
    for modules in by_role.values():
        for (first, before), (second, after) in pairwise(modules):
            is_alike = mask_numbers(before.name) == mask_numbers(after.name)
            if is_alike and split_numbers(spell(before.name)) > split_numbers(spell(after.name)):
                return True
            is_same_unit = (first.stage, first.unit) == (second.stage, second.unit)
            if is_sorted and not is_alike and is_same_unit and before.shape == after.shape:
                return True
    return is_sorted and not has_numbered_units(assignment)


def has_numbered_units(assignment: Assignment) -> bool:
    """Return whether the first convolutions of equal units have names that differ in numbers."""
    firsts = [
        module for position, module in sorted(assignment.items()) if position[::3] == ("conv", 1)
    ]
    return all(
        mask_numbers(before.name) == mask_numbers(after.name) or before.shape != after.shape
        for before, after in pairwise(firsts)
    )


def mask_numbers(name: str) -> str:
    """Mask the numbers in a name, and single letters between dots and underscores."""
    return re.sub(r"[0-9]+|(?<![a-zA-Z])[a-z](?![a-zA-Z])", "#", name)


def spell(name: str) -> str:
    """Write single letters as numbers, so that they can be compared."""
    return re.sub(r"(?<![a-zA-Z])[a-z](?![a-zA-Z])", lambda letter: str(ord(letter[0])), name)


def contradicts_words(assignment: Assignment) -> bool:
    """Return whether a known word names another role, e.g. a `downsample` inside the branch.

    A word that is in all names, e.g. of a folder, tells nothing.
    """
    conv_names = [module.name for position, module in assignment.items() if position.role == "conv"]
    return any(
        0 < sum(bool(words.search(name)) for name in conv_names) < len(conv_names)
        for words in (SHORTCUT_WORDS, ATTENTION_WORDS)
    )


def has_certain_norms(assignment: Assignment, ordered: list[FileModule]) -> bool:
    """Return whether the BN of each projection is told from those of the branch.

    It is told by its size, by its place directly after the projection, if all BNs follow their
    convolutions so, by its place after all others, or by its name.
    """
    place = {module: i for i, module in enumerate(ordered)}
    for position, project in assignment.items():
        unit = position.stage, position.unit
        own = assignment.get(ModulePosition("project norm", *unit))
        if position.role != "project" or own is None:
            continue
        others = {
            other.layer: module
            for other, module in assignment.items()
            if other.role == "norm" and (other.stage, other.unit) == unit
        }
        rivals = [module for module in others.values() if module.shape == own.shape]
        follows_directly = place[own] == place[project] + 1 and all(
            place[module] == place[assignment[ModulePosition("conv", *unit, layer)]] + 1
            for layer, module in others.items()
        )
        is_last = all(place[module] < place[project] < place[own] for module in rivals)
        has_name = all(
            count_shared_words(project, own) > count_shared_words(project, module)
            for module in rivals
        )
        if not (follows_directly or is_last or has_name):
            return False
    return True


def count_shared_words(one: FileModule, other: FileModule) -> int:
    return len(set(re.split(r"[._]", one.name)) & set(re.split(r"[._]", other.name)))
