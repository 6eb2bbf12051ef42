"""Find dataclasses that could be changed after they were made, or that have no slots."""

import dataclasses
import importlib
import pkgutil


def list_dataclasses(package_name):
    """All dataclasses that the modules below a package define."""
    package = importlib.import_module(package_name)
    modules = [package_name] + [
        module.name for module in pkgutil.walk_packages(package.__path__, f"{package_name}.")
    ]
    for name in modules:
        for value in vars(importlib.import_module(name)).values():
            is_own = isinstance(value, type) and value.__module__ == name
            if is_own and dataclasses.is_dataclass(value):
                yield value


def list_mutable_dataclasses(package_name):
    """The names of dataclasses that are not frozen, or without slots."""
    return {
        value.__name__
        for value in list_dataclasses(package_name)
        if not value.__dataclass_params__.frozen or "__slots__" not in vars(value)
    }
