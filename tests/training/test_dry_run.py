"""The plan of a run is made without a look at each of its steps."""

import json
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.recipe import MAX_STEPS, Recipe
from residua.config.recipes import recipe
from residua.config.schedules import OneCycle, StepDecay, Warmup
from residua.data.splits import SMALL_DEV_SHARE
from residua.net.build import build
from residua.net.model_folder import save_pretrained
from residua.training.dry_run import list_lr_changes
from tests.data.faulty_photos import CLASS_CHANNELS, make_picture

fractions = st.one_of(st.integers(0, 12).map(lambda n: n / 10), st.floats(-0.5, 1.5))
schedules = st.one_of(
    st.builds(
        StepDecay,
        at=st.lists(fractions, max_size=5).map(tuple),
        factor=st.sampled_from([0.0, 0.1, 1.0]),
    ),
    st.builds(OneCycle, lr=st.sampled_from([0.0, 0.1]), rise=st.sampled_from([0.0, 0.4])),
)
warmups = st.none() | st.builds(Warmup, st.sampled_from([0.01, 1.0]), st.integers(0, 300))


def list_changes_step_by_step(run_recipe, total_steps):
    """The definition: look at the learning rate of every step."""
    rates = [run_recipe.lr_at_step(step, total_steps) for step in range(total_steps)]
    steps = [i for i in range(total_steps) if i == 0 or rates[i] != rates[i - 1]]
    if len(steps) > 10:
        steps = [total_steps * i // 10 for i in range(10)]
    return [(step, rates[step]) for step in steps]


@settings(max_examples=60)
@given(schedules, warmups, st.integers(1, 1500), st.sampled_from([0.0, 0.1, 1 / 3]))
def test_the_changes_of_the_learning_rate_are_those_of_all_steps(
    schedule, warmup, total_steps, probe
):
    run_recipe = Recipe(name="x", steps=1, schedule=schedule, warmup=warmup, probe=probe)
    assert list_lr_changes(run_recipe, total_steps) == list_changes_step_by_step(
        run_recipe, total_steps
    )


def test_the_longest_run_is_planned_at_once():
    start = time.perf_counter()
    assert [step for step, _ in list_lr_changes(recipe("he2015"), MAX_STEPS)] == [
        0,
        400,
        MAX_STEPS // 2,
        3 * MAX_STEPS // 4,
    ]
    assert len(list_lr_changes(recipe("fast"), MAX_STEPS)) == 10
    assert time.perf_counter() - start < 0.5


def test_a_preview_says_what_is_trained_when_and_at_which_rate(capsys, tmp_path):
    spec = network("cifar-resnet8", input=(1, 8, 8), classes=10)
    classes = get_dataset("digits").classes
    config = ModelConfig(network=spec, classes=classes, mean=(0.3,), std=(0.4,))
    save_pretrained(build(spec), config, tmp_path / "model")
    settings = ["probe=0.25", "body_lr=0.1", "layer_decay=0.5", "sizes=[0.5,1]"]
    options = [option for setting in settings for option in ("--set", setting)]
    start = ["--from", str(tmp_path / "model")]
    command = ["train", "digits", *start, "--steps", "8", "--dry-run", *options]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["probe_steps"] == 2
    assert {item["part"]: item["factor"] for item in facts["lr_factors"]} == {
        "last layer": 1,
        "stage 3": 0.05,
        "stage 2": 0.025,
        "stage 1": 0.0125,
        "stem": 0.00625,
    }
    assert [[x["step"], x["height"]] for x in facts["image_sizes"]] == [[0, 4], [4, 8]]
    assert len(facts["learning_rates"]) == 8
    assert facts["learning_rates"][0]["lr"] == facts["learning_rates"][2]["lr"] == 0
    assert facts["estimated_seconds"] > 0
    main(command)
    assert "last layer 1, stage 3 0.05, stage 2 0.025" in capsys.readouterr().out


def test_many_photographs_are_previewed_by_a_sample_and_nothing_is_stored(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("residua.training.data_bench.MAX_MEASURED_PHOTOS", 16)
    monkeypatch.setattr("residua.training.dry_run_sample.MAX_MEASURED_PHOTOS", 16)
    for split, count in (("train", 40), ("test", 10)):
        for name, channel in CLASS_CHANNELS.items():
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "photos" / split / name / f"{i}.png"
                make_picture(1000 * channel + i + 500 * (split == "test"), channel).save(path)

    def refuse_to_read_all(*_):
        raise AssertionError("a preview of many photographs reads few of them")

    for place in ("photo_storage", "photo_cache", "image_cache"):
        monkeypatch.setattr(f"residua.data.{place}.hash_listing", refuse_to_read_all)
    words = ["train", str(tmp_path / "photos"), "--model", "cifar-resnet8", "--size", "16"]
    words += ["--batch-size", "32", "--epochs", "3", "--from", "none"]
    classes = len(CLASS_CHANNELS)
    for storage in ("auto", "squares", "raw", "files"):
        assert main([*words, "--dry-run", "--json", "--storage", storage]) == 0
        printed = capsys.readouterr()
        facts = json.loads(printed.out)
        train = 40 * classes - round(40 * classes * SMALL_DEV_SHARE)
        assert facts["splits"] == {
            "train": train,
            "dev": 40 * classes - train,
            "test": 10 * classes,
        }
        assert facts["training_images"] == sum(facts["classes"].values()) == train
        assert facts["steps"] == 3 * train // 32
        assert facts["estimated_seconds"] > 0
        assert "photographs were read for this preview" in printed.err
    assert not list((tmp_path / "cache").rglob("*"))
