"""The recipe `record`: updates as written by hand, runs without dev images, and timed runs."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from residua import report
from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.config.optimisers import Muon
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.config.run import Run
from residua.config.serialize import from_json, to_json
from residua.config.study import Arm, Study
from residua.data.images import Images
from residua.data.read import read_split
from residua.errors import DataError, UsageError
from residua.net.build import build
from residua.net.model_folder import read_model_config, save_pretrained
from residua.record import RunRecord
from residua.studies.run_study import train_study
from residua.training.assess import evaluate_model_folder
from residua.training.dry_run import preview_run
from residua.training.evaluate import evaluate_network
from residua.training.final_evaluation import evaluate_finished_run
from residua.training.find_lr import run_range_test
from residua.training.initial_weights import record_weights_origin, resolve_weight_source
from residua.training.run import train_run
from residua.training.step import make_training_step
from residua.training.step_profile import profile_run
from tests.cli_runner import run_cli
from tests.training.short_runs import (
    CPU_FP32,
    ignore_progress,
    load_last_weights,
    make_digits_run,
    never_stop,
    stop_after,
)

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "record.py"
SMALL_NETWORK = network("cifar-record8,width=0.25")
TOTAL_STEPS = 10


def orthogonalise_by_hand(matrix, rounds):
    x = matrix.flatten(1)
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.view_as(matrix)


def test_updates_are_those_of_the_record_written_by_hand():
    """airbench's loss is a sum, its rates are absolute, and its decay is divided by the rate."""
    count, share = 8, 0.4
    record = replace(recipe("record"), batch_size=count, steps=TOTAL_STEPS, epochs=0, stem=share)
    muon = record.optimiser
    scales = {"lr_scale": 0.053 * count / 0.15, "head_scale": 0.67 * count / 0.15}
    record = replace(record, optimiser=replace(muon, **scales, others_decay=2e-6 * count / 0.15))
    net, twin = build(SMALL_NETWORK, 1).train(), build(SMALL_NETWORK, 1).train()
    step = make_training_step(net, record, CPU_FP32)
    generator = torch.Generator().manual_seed(0)
    momenta = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for i in range(6):
        images = torch.randn(count, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (count,), generator=generator)
        stem_rate = max(0, 1 - i / (share * TOTAL_STEPS))
        step.set_stem_training(stem_rate > 0)
        rates = [f(i, TOTAL_STEPS) for f in (record.lr_at_step, record.stem_lr_at_step)]
        step(images, labels, *rates)
        twin.zero_grad()
        loss = F.cross_entropy(twin(images), labels, label_smoothing=0.2, reduction="sum")
        loss.backward()
        for name, p in twin.named_parameters():
            if p.grad is None:
                continue
            is_filter, rate = p.dim() == 4, 1 - i / TOTAL_STEPS
            peak = 0.67 if name.startswith("head") else 0.053
            gradient = p.grad if is_filter else p.grad + 2e-6 * count / peak * p.detach()
            momentum = 0.75 if is_filter else 0.85
            momenta[name].mul_(momentum).add_(gradient)
            direction = gradient + momentum * momenta[name]
            with torch.no_grad():
                if is_filter:
                    p.mul_(len(p) ** 0.5 / p.norm())
                    p.sub_(0.15 * rate * orthogonalise_by_hand(direction, 3))
                else:
                    p.sub_(peak * (stem_rate if name == "stem.0.bias" else rate) * direction)
        for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
            if p.dim() < 4 or not p.requires_grad:
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=f"{name}, step {i}")
            else:  # Newton-Schulz is computed in bf16
                step_length = 0.15 * len(p) ** 0.5
                assert (p - q).norm().item() < 0.03 * step_length, f"{name}, step {i}"
        net.load_state_dict(twin.state_dict())  # or the differences would grow


def test_stem_learns_only_in_its_share_of_the_run():
    record = recipe("record").with_duration(steps=100)
    rates = [replace(record, stem=0.1).stem_lr_at_step(step, 100) for step in (0, 5, 9, 10, 99)]
    assert rates == pytest.approx([0.15, 0.075, 0.015, 0, 0])
    assert replace(record, stem=0.0).stem_lr_at_step(50, 100) == record.lr_at_step(50, 100)


def test_older_recipes_keep_their_json():
    assert set(to_json(Muon())) == {"momentum", "weight_decay", "share"}
    assert not {"stem", "dev", "views"} & set(to_json(recipe("fast")))
    assert from_json(type(recipe("record")), to_json(recipe("record"))) == recipe("record")


@pytest.fixture(scope="module")
def run_without_dev(tmp_path_factory):
    folder = tmp_path_factory.mktemp("no-dev") / "run"
    muon = '{"kind": "Muon", "rounds": 3, "normalise_weights": true, "others_momentum": 0.8}'
    run = make_digits_run(
        steps=12, dev="false", optimiser=muon, augment__pad_mode="reflect", stem=0.4
    )
    result = train_run(run, folder, CPU_FP32, on_progress=ignore_progress, should_stop=never_stop)
    return run, folder, result


def test_a_run_without_dev_images_trains_on_them_too(run_without_dev):
    run, folder, result = run_without_dev
    digits = get_dataset("digits")
    counts = [len(read_split(digits, split)) for split in ("train", "dev")]
    assert run.recipe.total_steps(sum(counts)) == 12
    absent = ("dev_error", "best_dev_error", "dev_images", "dev_error_interval")
    assert all(result[name] is None for name in absent)
    assert RunRecord(folder).read_result() == result
    assert {row["dev_error"] for row in RunRecord(folder).read_metrics()} == {None}
    assert not (folder / "best").exists()
    assert read_model_config(folder / "last").trained_on_dev


def test_an_estimate_times_steps_with_and_without_training_of_the_stem(monkeypatch):
    made = []

    def make_and_keep(*words):
        made.append(make_training_step(*words))
        return made[-1]

    monkeypatch.setattr("residua.training.dry_run.make_training_step", make_and_keep)
    preview_run(make_digits_run(steps=20, stem=0.4), CPU_FP32, None)
    assert [step.trains_stem for step in made] == [True, False]


class SummaryGiven(Exception):
    """Ends a look at a run once its data is summarised."""


def raise_summary(summary):
    raise SummaryGiven(summary)


def look_at(run, tmp_path):
    """All that can be done with a run, each with the data set of the run."""
    data, options = get_dataset(run.dataset), {"on_data": raise_summary}
    yield lambda: preview_run(run, CPU_FP32, None, data, **options)
    yield lambda: profile_run(run, CPU_FP32, tmp_path / "p", data=data, **options)
    yield lambda: run_range_test(run, data, CPU_FP32, steps=100, on_step=never_stop, **options)
    common = {"on_progress": ignore_progress, "should_stop": never_stop}
    yield lambda: train_run(run, tmp_path / "run", CPU_FP32, data=data, **common, **options)


def test_every_look_at_a_run_without_dev_images_counts_them_as_training_images(tmp_path):
    run = make_digits_run(steps=12, dev="false")
    for look in look_at(run, tmp_path):
        with pytest.raises(SummaryGiven) as caught:
            look()
        assert caught.value.args[0].splits == {"train": 1438, "dev": 0}


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_views_that_the_data_does_not_allow_are_refused_before_it_is_read(
    dataset, monkeypatch, tmp_path
):
    read = lambda *words, **options: pytest.fail("the data was read")  # noqa: E731
    monkeypatch.setattr("residua.data.read.read_split", read)
    run = replace(make_digits_run(steps=12, views="six"), dataset=dataset)
    looks = list(look_at(run, tmp_path))
    study = Study(dataset=dataset, arms=(Arm("plain"),), depths=(8,), recipe=run.recipe, seeds=(0,))
    looks.append(lambda: train_study(study, tmp_path / "study", on_progress=lambda *done: None))
    for look in looks:
        with pytest.raises(UsageError, match=f"views=six cannot be used with {dataset}"):
            look()
    assert not any(tmp_path.iterdir())


def test_a_study_with_folds_cannot_train_on_dev_images(tmp_path):
    without_dev = make_digits_run(steps=12, dev="false").recipe
    study = Study(arms=(Arm("plain"),), depths=(8,), recipe=without_dev, folds=3)
    with pytest.raises(UsageError, match="dev=false and --folds cannot be combined"):
        train_study(study, tmp_path / "study", on_progress=lambda *done: None)
    assert not any(tmp_path.iterdir())


def test_its_dev_images_cannot_be_evaluated_or_calibrate(run_without_dev):
    _, folder, _ = run_without_dev
    digits = get_dataset("digits")
    for split, calibrate, advice in (
        ("dev", False, "they tell nothing about new images: choose another split"),
        ("test", True, "no temperature can be fitted on them: leave --calibrate out"),
    ):
        with pytest.raises(DataError, match=f"was trained on the dev images of digits.* {advice}"):
            evaluate_model_folder(folder, digits, split, CPU_FP32, calibrate=calibrate)
    assert evaluate_model_folder(folder, digits, "test", CPU_FP32).count == 359


def test_runs_that_go_on_from_it_know_its_dev_images(run_without_dev, tmp_path, capsys):
    _, folder, _ = run_without_dev
    words = ["--from", folder, "--steps", "2", "--batch-size", "8", "--out", tmp_path / "next"]
    assert main(["train", "digits", *map(str, words)]) == 0
    said = capsys.readouterr().err
    assert "were trained on the dev images of digits, so the dev error looks too low" in said
    assert read_model_config(tmp_path / "next" / "last").trained_on_dev
    code, _, error = run_cli(capsys, "evaluate", tmp_path / "next", "digits", "--split", "dev")
    assert (code, "was trained on the dev images of digits" in error) == (1, True)


@pytest.mark.parametrize(
    ("before", "now", "knows"),
    [
        ("cifar100", "cifar100", True),
        ("cifar100", "cifar100-coarse", True),  # the same images
        ("", "cifar100", True),  # an edited network does not say
        ("cifar10", "cifar100", False),
        ("cifar100", "photos", False),
        ("", "photos", False),
    ],
)
def test_only_dev_images_of_the_same_files_are_known(before, now, knows, tmp_path):
    config = ModelConfig(
        network=SMALL_NETWORK, classes=tuple("abcdefghij"), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    net = build(SMALL_NETWORK)
    save_pretrained(net, replace(config, dataset=before, trained_on_dev=True), tmp_path / "start")
    source = resolve_weight_source(tmp_path / "start")
    assert record_weights_origin(replace(config, dataset=now), source).trained_on_dev is knows
    save_pretrained(net, replace(config, dataset=before), tmp_path / "other")
    source = resolve_weight_source(tmp_path / "other")
    assert not record_weights_origin(replace(config, dataset=now), source).trained_on_dev


def test_views_that_mirror_digits_or_contradict_mirror_are_refused(run_without_dev, capsys):
    _, folder, _ = run_without_dev
    code, _, error = run_cli(capsys, "evaluate", folder, "digits", "--views", "six")
    assert (code, "--views=six cannot be used with digits" in error) == (2, True)
    code, _, error = run_cli(capsys, "evaluate", folder, "digits", "--mirror", "--views", "six")
    assert (code, "--mirror and --views=six contradict each other" in error) == (2, True)


def test_its_report_and_the_list_of_runs_name_no_dev_error(run_without_dev, capsys):
    _, folder, _ = run_without_dev
    page = report.write_run_report(report.read_study_summary(folder), folder)
    assert "no training images are held out" in Path(page).read_text()
    listed = json.loads(run_cli(capsys, "runs", folder.parent, "--json")[1])["runs"]
    assert [run["dev_error"] for run in listed] == [None]


def test_a_run_without_dev_images_resumes_bit_identically(run_without_dev, tmp_path):
    run, folder, _ = run_without_dev
    options = {"on_progress": ignore_progress, "resume": True}
    with pytest.raises(Exception, match="training stopped"):
        train_run(run, tmp_path, CPU_FP32, should_stop=stop_after(5), **options)
    train_run(run, tmp_path, CPU_FP32, should_stop=never_stop, **options)
    resumed, expected = load_last_weights(tmp_path), load_last_weights(folder)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_six_views_are_weighted_scores_of_shifted_and_mirrored_images():
    net = build(SMALL_NETWORK).eval()
    pixels = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.zeros(5, dtype=torch.int64))
    mean, std = (0.0,) * 3, (1 / 255,) * 3
    total = 0
    with torch.no_grad():
        for shift, weight in ((0, 0.5), (-1, 0.25), (1, 0.25)):
            rows = torch.arange(32) + shift
            rows = torch.where(rows < 0, -rows, torch.where(rows > 31, 62 - rows, rows))
            x = pixels.float()[:, :, rows][:, :, :, rows]
            total += weight / 2 * (net(x) + net(x.flip(3)))
    expected = F.cross_entropy(total, images.labels).item()
    score = evaluate_network(net, images, mean, std, CPU_FP32, views="six")
    assert score.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"views": "six"}, "a mirrored image may belong to another class: use views=none"),
        ({"stem": 0.5, "probe": 0.5}, "stem and probe cannot be combined"),
        ({"views": "seven"}, "views is 'seven', not one of 'none', 'mirror', '10', 'six', 'plain'"),
        ({"augment__pad_mode": "wrap"}, "not one of 'mean', 'reflect'"),
        ({"augment__pad": 8, "augment__pad_mode": "reflect"}, "cannot be padded by 8 reflected"),
        (
            {"optimiser": '{"kind": "Muon", "rounds": 0}'},
            "rounds=0 is invalid: it must be at least 1",
        ),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(overrides, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train_run(
            make_digits_run(steps=2, **overrides),
            tmp_path,
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )


def test_timed_runs_end_as_train_run_does(monkeypatch, tmp_path):
    """The experiment trains in the same memory again and again, and must forget earlier seeds."""
    generator = torch.Generator().manual_seed(0)
    images = {
        split: Images(
            torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
            torch.arange(count) % 10,
        )
        for split, count in (("train", 40), ("dev", 8), ("test", 20))
    }
    read = lambda dataset, split, data_dir=None, **options: images[split]  # noqa: E731
    monkeypatch.setattr("residua.data.read.read_split", read)
    monkeypatch.setattr("residua.training.run_result.read_split", read)
    monkeypatch.setattr("residua.training.final_evaluation.read_split", read)
    monkeypatch.setattr("residua.training.prepared_run.ensure_dataset_ready", lambda *words: None)
    script = runpy.run_path(str(EXPERIMENT))
    script["read_splits"].__globals__["read_split"] = read
    settings = ["batch_size=12", "epochs=1"]
    words = ["--seeds", "2", "--model", SMALL_NETWORK.name, "--device", "cpu", "--precision"]
    words += ["fp32", "--out", str(tmp_path / "record.json")]
    assert script["main"]([*words, *[f"--set={setting}" for setting in settings]]) == 0
    summary = json.loads((tmp_path / "record.json").read_text())["variants"][0]
    record = replace(recipe("record"), batch_size=12, epochs=1.0)
    for timed in summary["runs"]:
        result = train_run(
            Run(SMALL_NETWORK, "cifar10", record, timed["seed"]),
            tmp_path / str(timed["seed"]),
            CPU_FP32,
            on_progress=ignore_progress,
            should_stop=never_stop,
        )
        assert timed["accuracies"]["six"] == pytest.approx(1 - result["test_error"])
        assert result["test_views"] == "six"
        evaluation = evaluate_finished_run(
            tmp_path / str(timed["seed"]), get_dataset("cifar10"), CPU_FP32
        )
        assert (evaluation.views, evaluation.error_rate) == ("six", result["test_error"])
        last = tmp_path / str(timed["seed"]) / "last"
        assert read_model_config(last).test_views == "six"
        assert "of 20 images with six views (95 % CI" in (last / "README.md").read_text()
