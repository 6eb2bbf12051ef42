"""`python -m build` makes a wheel of the package and nothing else, which works where only the
dependencies that it declares are installed, without extras.
"""

import re
import subprocess
import sys
from email.parser import Parser
from zipfile import ZipFile

import pytest
from PIL import Image
from sklearn.datasets import load_digits

import residua
from residua.extras import EXTRA_PACKAGES
from tests.empty_environment import ROOT, EmptyEnvironment, list_requirements

PRINT_PLACE_AND_EXTRAS = """
import residua
from residua.extras import EXTRA_PACKAGES, list_missing_packages
print(residua.__file__, residua.__version__)
print(sum(map(len, map(list_missing_packages, EXTRA_PACKAGES))))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, in which no extra is installed."""
    folder = tmp_path_factory.mktemp("environment")
    environment = EmptyEnvironment(folder, list_requirements("residua"))
    environment.run(["pip", "install", "--quiet", "--no-compile", wheel], folder)
    return environment


@pytest.fixture(scope="module")
def run_folder(environment, tmp_path_factory):
    """A run that the installed wheel has trained."""
    folder = tmp_path_factory.mktemp("work")
    command = "residua train digits --model cifar-resnet8 --steps 20 --out runs/digits"
    printed = environment.run(command, folder)
    assert "<svg" in (folder / "runs" / "digits" / "report.html").read_text(), printed
    return folder / "runs" / "digits"


def test_the_wheel_contains_the_files_of_the_package_and_nothing_else(wheel):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "residua"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    expected = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    about = f"residua-{residua.__version__}.dist-info/"
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(about + "METADATA").decode())
    assert {name for name in names if not name.startswith(about)} == expected
    assert {"residua/py.typed", "residua/net/fused_bn.c"} <= names
    assert about + "licenses/LICENSE" in names
    assert metadata["Version"] == residua.__version__


def test_the_installed_wheel_is_imported_and_no_extra_is_there(environment, tmp_path):
    printed = environment.run([environment.python, "-c", PRINT_PLACE_AND_EXTRAS], tmp_path)
    place, version, missing = printed.split()
    assert place.startswith(str(environment.folder))
    assert version == residua.__version__
    with_torch = {"fsspec"}  # which torch requires
    wanted = [name for names in EXTRA_PACKAGES.values() for name in names if name not in with_torch]
    assert int(missing) == len(wanted) >= 15
    assert "usage: residua" in environment.run("residua --help", tmp_path)


def test_the_installed_wheel_trains_and_predicts(environment, run_folder, tmp_path):
    Image.fromarray((load_digits().images[0] * 15.9).astype("uint8")).save(tmp_path / "0.png")
    printed = environment.run(["residua", "predict", run_folder, "0.png"], tmp_path)
    assert re.search(r"\d % \d .*0\.png$", printed, re.MULTILINE)


def test_the_installed_wheel_runs_a_study(environment, tmp_path):
    command = "residua study --families resnet --depths 8 --seeds 0 --steps 10 --out study"
    environment.run(command, tmp_path)
    assert "<svg" in (tmp_path / "study" / "report.html").read_text()


def test_a_command_without_its_extra_says_what_to_install(environment, run_folder, tmp_path):
    printed = environment.run(["residua", "serve", run_folder], tmp_path, expected_code=2)
    assert printed == (
        "residua: serve needs starlette, which is not installed: "
        "pip install starlette uvicorn python-multipart\n"
    )
