"""Import a package's public names at their first use, so that `import residua` is fast."""

from collections.abc import Callable, Mapping
from importlib import import_module


def export_lazily(
    package: str, names_by_module: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` for the `__init__` of `package`.

    `names_by_module` maps each module, relative to the package, to its public names, separated by
    spaces.  The first access to a name imports its module.  A public name must differ from the
    names of the package's submodules, because importing a submodule would replace it.
    """
    homes = {name: module for module, names in names_by_module.items() for name in names.split()}

    def get_attribute(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get_attribute, lambda: sorted(homes)
