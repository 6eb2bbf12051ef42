import json

import pytest

from residua.cli.main import main
from residua.data import image_cache, photo_cache
from tests.cli_runner import run_cli
from tests.data.faulty_photos import write_clean_folder

WRITES_RUN_PAGES = True

OPTIONS = ["--model", "cifar-resnet8", "--size", "24", "--steps", "2", "--precision", "fp32"]


@pytest.fixture
def decoded_listings(monkeypatch, tmp_path):
    """The listings that were decoded, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    listings = []
    for module, name in ((image_cache, "decode_to_cache"), (photo_cache, "decode_photos_to_cache")):
        decode = getattr(module, name)

        def decode_and_note(listing, *others, decode=decode):
            listings.append(listing)
            return decode(listing, *others)

        monkeypatch.setattr(module, name, decode_and_note)
    return listings


@pytest.mark.parametrize("storage", ["raw", "squares"])
def test_photos_are_decoded_once_for_training_and_evaluation(
    storage, capsys, tmp_path, decoded_listings
):
    write_clean_folder(tmp_path / "d")
    (tmp_path / "d" / "val" / "cat" / "broken.png").write_bytes(b"no image")
    run = tmp_path / "run"
    code, _, error = run_cli(
        capsys, "train", tmp_path / "d", *OPTIONS, "--storage", storage, "--out", run
    )
    assert (code, len(decoded_listings)) == (0, 1), error
    at_the_end = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert main(["evaluate", str(run), str(tmp_path / "d"), "--out", str(tmp_path / "e")]) == 0
    assert at_the_end == json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert at_the_end["left_out"]


@pytest.mark.parametrize("model", ["cifar-resnet8", "vlad,words=4,cells=1,samples=2000"])
def test_the_evaluation_at_the_end_is_that_of_evaluate(tmp_path, model):
    steps = ["--steps", "2"] if model == "cifar-resnet8" else []
    run = tmp_path / "run"
    assert main(["train", "digits", "--model", model, *steps, "--out", str(run)]) == 0
    out = ["--out", str(tmp_path / "e")]
    assert main(["evaluate", str(run), "digits", *out]) == 0
    at_the_end, repeated = (
        json.loads((folder / "evaluation.json").read_text())
        for folder in (run / "evaluation", tmp_path / "e")
    )
    assert at_the_end == repeated
