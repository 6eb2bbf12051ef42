"""Which images a trained model is evaluated on, and what is said about them."""

import json
import shutil
from dataclasses import replace

import PIL
import pytest

from residua.cli.main import main
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.config.serialize import from_json
from residua.data.image_cache import hash_listing
from residua.data.seen_images import DIGEST_BYTES, SeenImages, decode_digests, encode_digests
from residua.data.sources.resolve import list_image_dataset, resolve_dataset
from residua.data.splits import FIRST_DEV_SHARE, choose_dev_share
from residua.data.unseen_images import choose_images, fingerprint_training_entries
from residua.training.rank_agreement import describe_run_on_rank, explain_difference
from tests.data.faulty_photos import make_picture

CLASSES = ("cat", "dog", "owl")


def write_photos(root, counts, seed=0):
    """Write small photos that differ for each `seed`, e.g. {"cat": 20} for twenty."""
    for k, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            number = 100_000 * seed + 1000 * k + i
            make_picture(number, size=(20, 20)).save(root / folder / f"{seed}-{i}.png")
    return root


def run_json(capsys, *arguments):
    """Run a command with --json; returns its object and what it said on standard error."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out), printed.err


TRAIN_OPTIONS = ("--model", "cifar-resnet8", "--size", "16", "--steps", "4", "--precision", "fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of 60 photos and a run on it."""
    root = tmp_path_factory.mktemp("trained")
    photos = write_photos(root / "photos", dict.fromkeys(CLASSES, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        assert main(["train", str(photos), *TRAIN_OPTIONS, "--out", str(root / "run")]) == 0
    return root / "run", photos


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_model_folder_stores_which_images_it_was_trained_on(trained):
    run, photos = trained
    config = from_json(ModelConfig, json.loads((run / "last" / "config.json").read_text()))
    seen = SeenImages.from_config(config)
    starts = {
        bytes.fromhex(d[: 2 * DIGEST_BYTES]) for d in hash_listing(list_image_dataset(photos))
    }
    assert len(starts) == 60
    assert seen.train < starts
    assert seen.dev < starts
    assert not seen.train & seen.dev
    assert len(seen.train) > len(seen.dev) > 0


def test_stored_digests_are_read_back_and_damaged_ones_are_as_good_as_none():
    digests = [f"{i:064x}"[::-1] for i in range(10)]
    assert decode_digests(encode_digests(digests)) == {bytes.fromhex(d[:8]) for d in digests}
    assert decode_digests("not base64!") == frozenset()


def test_a_folder_that_the_model_was_never_trained_on_is_evaluated_whole(trained, tmp_path, capsys):
    run, _ = trained
    new = write_photos(tmp_path / "new", {"cat": 30, "dog": 20, "owl": 10}, seed=7)
    facts, said = run_json(capsys, "evaluate", run, new)
    assert (facts["count"], facts["split"], facts["split_from"]) == (60, "all", "content")
    assert "all 60 images are evaluated: the model was trained on none of them" in said
    assert main(["evaluate", str(run), str(new)]) == 0
    assert " of 60 images wrong" in capsys.readouterr().out


def test_a_moved_folder_is_evaluated_on_the_held_out_images_of_its_run(trained, tmp_path, capsys):
    run, photos = trained
    held_out = json.loads((run / "run.json").read_text())["result"]["test_error"]
    moved = shutil.copytree(photos, tmp_path / "moved")
    facts, said = run_json(capsys, "evaluate", run, moved)
    in_place, _ = run_json(capsys, "evaluate", run, photos)
    assert facts["split"] == in_place["split"] == "test"
    assert facts["count"] == in_place["count"]
    assert facts["error"] == in_place["error"] == pytest.approx(held_out)
    assert f"{facts['count']} of 60 images are evaluated: the model was trained on" in said
    assert "were its dev images, which serve to choose a network" in said
    assert f"the network after the last step is evaluated, in {run / 'last'}; the one" in said
    assert f"dev error is in {run / 'best'}" in said
    assert f"  classes   images: {facts['classes'][0]['class']} " in said
    _, said_of_best = run_json(capsys, "evaluate", run / "best", moved)
    assert "the network after the last step" not in said_of_best


def test_images_that_were_added_are_evaluated_with_the_held_out_ones(trained, tmp_path, capsys):
    run, photos = trained
    before, _ = run_json(capsys, "evaluate", run, photos)
    grown = shutil.copytree(photos, tmp_path / "grown")
    write_photos(grown, {"cat": 5, "dog": 4}, seed=9)
    facts, _ = run_json(capsys, "evaluate", run, grown)
    assert facts["count"] == before["count"] + 9


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_that_is_asked_for_is_the_one_of_the_run(trained, tmp_path, capsys, split):
    run, photos = trained
    config = from_json(ModelConfig, json.loads((run / "last" / "config.json").read_text()))
    seen = SeenImages.from_config(config)
    grown = shutil.copytree(photos, tmp_path / "grown")
    write_photos(grown, {"cat": 5}, seed=9)
    facts, said = run_json(capsys, "evaluate", run, grown, "--split", split)
    assert facts["count"] == len(getattr(seen, split))
    what = {"train": "those that the model was trained on, ", "dev": "the model's dev images, "}
    assert f"{facts['count']} of 65 images are evaluated: {what[split]}" in said
    assert "the model was trained on " not in said.replace(what["train"], "")


def test_the_dev_images_of_a_calibration_are_called_so(trained, tmp_path, capsys):
    run, photos = trained
    copy = shutil.copytree(run, tmp_path / "run")
    main(["evaluate", str(copy), str(photos), "--calibrate"])  # refused: there are too few
    said = capsys.readouterr().err
    [dev_note] = [line for line in said.splitlines() if "and its temperature" in line]
    assert " of 60 images are evaluated: the model's dev images, which serve to choose" in dev_note
    assert said.count("of 60 images are evaluated: the model was trained on ") == 1


def test_images_that_were_all_trained_on_are_refused(trained, tmp_path, capsys):
    run, photos = trained
    config = from_json(ModelConfig, json.loads((run / "last" / "config.json").read_text()))
    seen = SeenImages.from_config(config)
    listing = list_image_dataset(photos)
    for entry, digest in zip(listing.entries, hash_listing(listing), strict=True):
        if bytes.fromhex(digest[: 2 * DIGEST_BYTES]) in seen.train:
            target = tmp_path / "seen" / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(entry.path, target)
    assert main(["evaluate", str(run), str(tmp_path / "seen")]) == 1
    error = capsys.readouterr().err
    assert "has no images for the test split: the model was trained on" in error
    facts, _ = run_json(capsys, "evaluate", run, tmp_path / "seen", "--split", "all")
    assert facts["count"] == len(seen.train)


@pytest.mark.parametrize("storage", ["squares", "raw", "jpeg", "raw at another side"])
def test_a_model_without_digests_knows_its_photos_by_their_fingerprint(
    storage, tmp_path, capsys, monkeypatch
):
    photos = write_photos(tmp_path / "photos", dict.fromkeys(CLASSES, 20))
    if storage == "squares":  # as in the runs of their time
        share = "residua.training.data_settings.choose_dev_share"
        monkeypatch.setattr(share, lambda count: FIRST_DEV_SHARE)
    run = tmp_path / "run"
    options = [*TRAIN_OPTIONS, "--storage", storage.split()[0], "--out", str(run)]
    if " " in storage:
        for change in ("area=1", "pad=0", "shorter_side=[18,24]"):
            options += ["--set", f"augment.{change}"]
    assert main(["train", str(photos), *options]) == 0
    config_file = run / "last" / "config.json"
    config = json.loads(config_file.read_text())
    test_error = json.loads((run / "run.json").read_text())["result"]["test_error"]
    del config["train_digests"], config["dev_digests"]
    config_file.write_text(json.dumps(config))
    moved = photos.rename(tmp_path / "moved")
    if storage != "squares":
        assert main(["cache", "clear", "photos/*"]) == 0
        monkeypatch.setattr("residua.data.unseen_images.load_photo_store", None)
    facts, _ = run_json(capsys, "evaluate", run, moved)
    assert facts["split"] == "test"
    assert facts["error"] == pytest.approx(test_error)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (moved / "cat" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run_json(capsys, "evaluate", run, moved)[0]["count"] == facts["count"]
    new = write_photos(tmp_path / "new", dict.fromkeys(CLASSES, 10), seed=5)
    facts, said = run_json(capsys, "evaluate", run, new)
    assert (facts["count"], facts["split"]) == (30, "all")
    assert "they are not those that the model learned from" in said


def test_photos_with_a_dev_share_of_their_own_are_known_by_their_fingerprint(trained, tmp_path):
    """ImageNet's is 1 %, whatever the number of photographs."""
    run, _ = trained
    config = from_json(ModelConfig, json.loads((run / "last" / "config.json").read_text()))
    dataset = resolve_dataset(str(write_photos(tmp_path / "own", dict.fromkeys(CLASSES, 20))))
    listing = replace(dataset.listing, dev_share=0.05)
    usual, own = (
        fingerprint_training_entries(replace(listing, dev_share=share), hash_listing(listing))
        for share in (choose_dev_share(len(listing.entries)), 0.05)
    )
    assert usual != own
    config = replace(
        config, scaled_decoding=True, train_digests="", dev_digests="", fingerprint=own
    )
    choice = choose_images(replace(dataset, listing=listing), "dev", config)
    assert "the model was trained on these photographs" in choice.reason
    assert choice.dataset.listing.dev_share == 0.05


@pytest.mark.parametrize(
    ("counts", "absent"),
    [
        ({"cat": 6, "owl": 4}, ["dog"]),
        ({"owl": 5}, ["cat", "dog"]),
        ({"cat": 3, "dog": 2, "owl": 0}, ["owl"]),
        ({"test/owl": 5}, ["cat", "dog"]),
    ],
)
def test_classes_are_matched_by_name_and_absent_ones_are_listed(
    trained, tmp_path, capsys, counts, absent
):
    run, _ = trained
    facts, said = run_json(capsys, "evaluate", run, write_photos(tmp_path / "d", counts, seed=3))
    assert facts["count"] == sum(counts.values())
    confusion = facts["confusion"]
    for k, name in enumerate(CLASSES):
        expected = sum(n for folder, n in counts.items() if folder.split("/")[-1] == name)
        assert sum(confusion[k]) == expected
    assert f"no images of {len(absent)} of the model's classes: {', '.join(absent)}" in said


def test_classes_that_the_model_does_not_know_are_refused_or_left_out_by_an_option(
    trained, tmp_path, capsys
):
    run, _ = trained
    root = write_photos(tmp_path / "d", {"cat": 3, "lynx": 2, "Dog": 4}, seed=3)
    assert main(["evaluate", str(run), str(root)]) == 2
    assert capsys.readouterr().err == (
        f"residua: {root} has classes that the model does not know, Dog, lynx: rename them to the "
        "model's classes (cat, dog, owl), or add --skip-unknown-classes\n"
    )
    facts, said = run_json(capsys, "evaluate", run, root, "--skip-unknown-classes")
    assert facts["count"] == 3
    assert facts["skipped"]["unknown class"] == 6
    assert "lynx is not a class of the model, and its 2 images are skipped" in said


def test_training_says_and_prints_what_it_understood_of_the_data(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", {"train/cat": 9, "train/dog": 8, "test/cat": 2})
    write_photos(photos, {"test/dog": 3, "evaluation/dog": 4}, seed=2)
    (photos / "train" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    facts, said = run_json(capsys, "train", photos, *TRAIN_OPTIONS, "--out", tmp_path / "run")
    assert facts["split_from"] == "folders"
    assert facts["splits"]["test"] == 5
    assert sum(facts["splits"].values()) == 22
    assert sum(facts["classes"].values()) == facts["splits"]["train"]
    assert list(facts["classes"]) == ["cat", "dog"]
    assert facts["skipped"] == {"damaged": 1, "left out": 4}
    assert f"data {photos}: 22 images in 2 classes" in said
    assert "  classes   training images: cat " in said
    assert "(by the folders' names)" in said
    assert "evaluation is not named like a split (train, val and test), and is left out (4" in said


def test_a_thousand_photographs_have_a_fifth_of_them_held_out_for_choosing(tmp_path):
    from residua.data.splits import assign_splits

    photos = write_photos(tmp_path / "photos", {"a": 500, "b": 500})
    listing = list_image_dataset(photos)
    splits = assign_splits(list(listing.entries), list(hash_listing(listing)))
    assert 160 <= splits.count("dev") <= 240
    assert 160 <= splits.count("test") <= 240


def test_a_run_that_began_with_a_smaller_dev_split_keeps_it(tmp_path, capsys, monkeypatch):
    photos = write_photos(tmp_path / "photos", dict.fromkeys(CLASSES, 30))
    arguments = ["train", str(photos), *TRAIN_OPTIONS, "--out", str(tmp_path / "run")]
    share = "residua.training.data_settings.choose_dev_share"
    monkeypatch.setattr(share, lambda count: FIRST_DEV_SHARE)
    assert main(arguments) == 0
    record_file = tmp_path / "run" / "run.json"
    record = json.loads(record_file.read_text())
    del record["environment"]["dev_share"]
    record["result"] = None
    record_file.write_text(json.dumps(record))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts, _ = run_json(capsys, *arguments, "--resume")
    assert facts["splits"]["dev"] < 0.12 * 90


def test_a_run_that_goes_on_with_another_pillow_says_so(tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", dict.fromkeys(CLASSES, 12))
    arguments = ["train", str(photos), *TRAIN_OPTIONS, "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    record_file = tmp_path / "run" / "run.json"
    record = json.loads(record_file.read_text())
    decoding = record["environment"]["decoding"]
    assert (decoding["storage"], decoding["pillow"]) == ("raw", PIL.__version__)
    record["result"] = None
    record_file.write_text(json.dumps(record))
    _, said = run_json(capsys, *arguments, "--resume")
    assert "not decoded as when" not in said
    decoding["libjpeg"] = "1.0"
    record_file.write_text(json.dumps(record))
    _, said = run_json(capsys, *arguments, "--resume")
    assert (
        'the photographs are not decoded as when this run was started (libjpeg is "1.0" then, "'
    ) in said
    assert "so that it goes on, but not with the same bits" in said


def test_ranks_must_decode_whole_photographs_alike(tmp_path):
    data = resolve_dataset(str(write_photos(tmp_path / "d", dict.fromkeys(CLASSES, 4))))
    run = Run(network("resnet18", input=data.input), data.name, recipe("photos"))
    squares, raw, files = (
        describe_run_on_rank(run, replace(data, storage=storage), ["1"])
        for storage in ("squares", "raw", "files")
    )
    assert squares != raw != files
    assert explain_difference(raw, files, 1) == (
        'storage is "raw" in rank 0, "files" in rank 1: give all ranks the same --storage, and '
        "install the same version of Pillow"
    )
