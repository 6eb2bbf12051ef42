"""Environments that hold a package's declared dependencies and nothing else, within a second.

Installing torch takes minutes.  So the dependencies are not copied: the environment's search path
has a folder of links to the distributions that are installed here, those that residua declares and
those that they declare in turn.  The packages of other extras cannot be imported, and residua
itself is not there until it is installed.
"""

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def list_requirements(name, extras=()):
    """The requirements of an installed distribution with these extras."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if not requirement.marker or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


def collect_distributions(requirements):
    """The distributions that the requirements need, directly or through others."""
    found, waiting = {}, list(requirements)
    while waiting:
        requirement = waiting.pop()
        key = (requirement.name.lower(), frozenset(requirement.extras))
        if key not in found:
            found[key] = distribution(requirement.name)
            waiting += list_requirements(requirement.name, requirement.extras)
    return found.values()


def link_distributions(distributions, folder):
    """Link the files of installed distributions from `folder`."""
    for installed in distributions:
        for name in {file.parts[0] for file in installed.files}:
            target = Path(installed.locate_file(name))
            if name not in ("..", "__pycache__") and not (folder / name).exists():
                (folder / name).symlink_to(target)


class EmptyEnvironment:
    """A virtual environment in `folder` with a `pip` that installs into it without a network."""

    def __init__(self, folder, requirements):
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.python = folder / "bin" / "python"
        site_packages = next(folder.glob("lib/python*/site-packages"))
        dependencies = folder / "dependencies"
        dependencies.mkdir()
        link_distributions(collect_distributions(requirements), dependencies)
        (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
        pip = folder / "bin" / "pip"
        pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {self.python} "$@"\n')
        pip.chmod(0o755)

    @property
    def variables(self):
        """Environment variables of a process in the environment."""
        left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        offline = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return kept | offline | {"PATH": path, "PYTHONNOUSERSITE": "1"}

    def run(self, command, cwd, expected_code=0):
        """Run a command line (a list, or a string for the shell); returns what it printed."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.variables,
            shell=isinstance(command, str),
            capture_output=True,
            text=True,
        )
        assert done.returncode == expected_code, done.stdout + done.stderr
        return done.stdout + done.stderr
