"""What is not installed is named, with the command that brings it."""

import re
import tomllib
from pathlib import Path

import pytest

from residua.errors import UsageError
from residua.extras import EXTRAS, require

DECLARED = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("what", EXTRAS)
def test_the_extra_that_is_named_brings_what_is_missing(what, monkeypatch):
    extra, packages = EXTRAS[what]
    declared = {re.split(r"[>=\[]", package)[0].replace("-", "_") for package in DECLARED[extra]}
    assert set(packages) <= declared
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=re.escape(f"which is not installed: pip install 'residua[{extra}]'")):
        require(what)
