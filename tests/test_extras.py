"""A missing package is reported with the command that installs it."""

import re
import tomllib
from pathlib import Path

import pytest

from residua.errors import UsageError
from residua.extras import EXTRA_PACKAGES, require_extra

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize("feature", EXTRA_PACKAGES)
def test_the_error_names_all_missing_packages_as_one_extra_declares_them(feature, monkeypatch):
    monkeypatch.setattr("residua.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"^{feature} .*is not installed: ") as caught:
        require_extra(feature)
    named = str(caught.value).partition(": pip install ")[2].split()
    assert len(named) == len(EXTRA_PACKAGES[feature])
    assert any(
        set(named) <= {re.split(r"[>=\[]", package)[0] for package in packages}
        for name, packages in EXTRAS.items()
        if name not in ("all", "dev")
    )


def test_the_error_leaves_out_what_is_installed(monkeypatch):
    monkeypatch.setattr(
        "residua.extras.find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(UsageError) as caught:
        require_extra("onnx")
    assert (
        str(caught.value) == "onnx needs onnxscript, which is not installed: pip install onnxscript"
    )
