"""A data set is listed once by each command; everything below takes the value."""

import pytest

from residua.data.sources import resolve
from tests.cli_runner import run_cli
from tests.data.faulty_photos import write_clean_folder


@pytest.fixture
def listed_locations(monkeypatch, tmp_path):
    """The locations that were listed, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    locations, list_image_dataset = [], resolve.list_image_dataset

    def list_and_count(location, *others, **options):
        locations.append(str(location))
        return list_image_dataset(location, *others, **options)

    monkeypatch.setattr(resolve, "list_image_dataset", list_and_count)
    return locations


@pytest.mark.parametrize("model", ["cifar-resnet8", "vlad"])
def test_train_lists_a_folder_once(capsys, tmp_path, listed_locations, model):
    write_clean_folder(tmp_path / "d")
    options = ["--model", model, "--size", "24"] + ["--steps", "2"] * (model != "vlad")
    command = ["train", tmp_path / "d", *options, "--out", tmp_path / "run"]
    for extra in (["--dry-run"], []):
        listed_locations.clear()
        code, _, error = run_cli(capsys, *command, *extra)
        assert code == 0, error
        assert listed_locations == [str(tmp_path / "d")]


def test_evaluate_lists_a_folder_once(capsys, tmp_path, listed_locations):
    write_clean_folder(tmp_path / "d")
    options = ["--model", "cifar-resnet8", "--size", "24", "--steps", "2"]
    assert run_cli(capsys, "train", tmp_path / "d", *options, "--out", tmp_path / "run")[0] == 0
    listed_locations.clear()
    code, _, error = run_cli(capsys, "evaluate", tmp_path / "run", tmp_path / "d", "--json")
    assert code == 0, error
    assert listed_locations == [str(tmp_path / "d")]
