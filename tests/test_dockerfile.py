"""What the Dockerfile does inside of its base image, tried without Docker.

Its RUN lines run where only the packages that they ask for are installed, beside the files that it
copies and no others; then its command serves a model, and its health check passes.  The base image,
the user and the download of packages are not tried.
"""

import json
import re
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from residua.net.model_folder import save_pretrained
from tests.deploy.live_server import make_small_model
from tests.empty_environment import ROOT, EmptyEnvironment, list_requirements


def read_instructions(name):
    """The arguments of all instructions of a name, in order."""
    text = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def build_arguments():
    return dict(line.split("=", 1) for line in read_instructions("ARG"))


@pytest.fixture(scope="module")
def image(tmp_path_factory, build_arguments):
    """An environment in which the RUN lines have run, beside the files that were copied."""
    folder, source = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("source")
    for line in read_instructions("COPY"):
        *paths, target = line.split()
        for path in paths:
            copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
            copy(ROOT / path, source / target)
    extras = build_arguments["EXTRAS"].split(",")
    requirements = [*list_requirements("residua", extras), Requirement("hatchling")]
    environment = EmptyEnvironment(folder, requirements)
    build = build_arguments | {"PIP_NO_BUILD_ISOLATION": "0"}  # which pip reads as: no isolation
    exports = "".join(f"export {name}={value}\n" for name, value in build.items())
    for line in read_instructions("RUN"):
        environment.run(exports + line, source)
    return environment


def test_only_what_is_copied_is_sent_to_docker():
    copied = {path for line in read_instructions("COPY") for path in line.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_the_command_serves_a_model_and_the_health_check_passes(image, tmp_path):
    save_pretrained(*make_small_model(), tmp_path / "model")
    (command,), (check,) = read_instructions("ENTRYPOINT"), read_instructions("HEALTHCHECK")
    assert read_instructions("EXPOSE") == ["8000"]
    assert command.count("8000") == check.count("8000") == 1
    command = json.loads(command.replace("/model", str(tmp_path / "model")).replace("8000", "0"))
    server = subprocess.Popen(
        command, cwd=tmp_path, env=image.variables, stdout=subprocess.PIPE, text=True
    )
    try:
        greeting = server.stdout.readline()
        port = re.search(r"http://0\.0\.0\.0:(\d+)", greeting)[1]
        check = json.loads(check.partition("CMD ")[2].replace("8000", port))
        image.run(check, tmp_path)
        server.terminate()
        assert server.wait(30) == 0
        image.run(check, tmp_path, expected_code=1)
    finally:
        server.kill()
        server.communicate()
