"""A missing package is reported with the command that installs it."""

import re
import tomllib
from pathlib import Path

import pytest

from residua.errors import UsageError
from residua.extras import EXTRA_PACKAGES, require_extra

DECLARED_EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())[
    "project"
]["optional-dependencies"]


@pytest.mark.parametrize("feature", EXTRA_PACKAGES)
def test_the_extra_named_in_the_error_installs_the_missing_package(feature, monkeypatch):
    extra, packages = EXTRA_PACKAGES[feature]
    declared = {
        re.split(r"[>=\[]", package)[0].replace("-", "_") for package in DECLARED_EXTRAS[extra]
    }
    assert set(packages) <= declared
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=re.escape(f"which is not installed: pip install 'residua[{extra}]'")
    ):
        require_extra(feature)
