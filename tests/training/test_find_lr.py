"""`residua find-lr`: what it trains, when it stops, what it suggests and what it leaves."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.model import ModelConfig
from residua.config.papers import network
from residua.config.recipes import recipe
from residua.data.batches import make_training_batches
from residua.data.read import read_split
from residua.errors import UsageError
from residua.net.build import build
from residua.net.create import create_model
from residua.net.model_folder import save_pretrained
from residua.training import find_lr
from residua.training.find_lr import has_diverged, make_range_test
from tests.weight_publisher import publish_weights

COMMAND = ["find-lr", "digits", "--model", "cifar-resnet8", "--precision", "fp32", "--steps", "100"]


def test_a_range_test_trains_as_a_loop_written_by_hand(capsys, tmp_path, monkeypatch):
    """Nesterov's momentum at rates that rise from 1e-6 by a constant factor."""
    monkeypatch.chdir(tmp_path)
    settings = ["--batch-size", "16", "--recipe", "tuning", "--set", "body_lr=1"]
    assert main([*COMMAND, *settings, "--out", "lr.svg", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    net, data = create_model("cifar-resnet8", input=(1, 8, 8)).train(), get_dataset("digits")
    chosen = recipe("tuning")
    images = read_split(data, "train")
    batches = make_training_batches(
        images, replace(chosen, batch_size=16), data, data.mean,
        data.std, 0, None,
    )  # fmt: skip
    decayed = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, 0.1, 0.9, weight_decay=1e-4, nesterov=True)
    rates = torch.logspace(-6, 1, 100, dtype=torch.float64)
    for i, row in enumerate(facts["curve"][:20]):
        assert row["lr"] == pytest.approx(rates[i].item(), rel=1e-9)
        for group in optimiser.param_groups:
            group["lr"] = row["lr"]
        pixels, labels = batches.make_batch(i)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(pixels), labels, label_smoothing=0.1)
        loss.backward()
        optimiser.step()
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["lr.svg"]
    assert facts["figure"] == "lr.svg"
    assert "learning rate of the last layer" in (tmp_path / "lr.svg").read_text()


def test_without_out_nothing_is_written_and_the_suggestion_is_printed(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "sizes=[0.5,1]", "--set", "ema=0.9"]
    assert main([*COMMAND, "--batch-size", "64", *settings]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^steepest fall of the loss at [\d.e-]+, lowest loss at [\d.e-]+\nsuggested: --lr ",
        out,
        re.MULTILINE,
    )
    assert list(tmp_path.iterdir()) == []


def test_the_suggestion_is_the_smaller_of_the_steepest_fall_and_a_tenth_of_the_lowest_loss():
    rates = [10 ** (i / 10 - 4) for i in range(50)]
    falling_late = [2.0] * 20 + [2.0 - 0.05 * i for i in range(20)] + [1.1] * 10
    falling_late[30:33] = [1.1, 1.0, 0.9]  # steepest at 0.1
    test = make_range_test(rates, falling_late, 3, diverged=False)
    assert test.lowest_loss_lr == pytest.approx(rates[31], rel=0.3)
    assert test.steepest_lr == pytest.approx(rates[29], rel=0.3)
    assert test.suggested_lr == test.lowest_loss_lr / 10
    early = [2.0] * 10 + [1.5, 1.0] + [1.0 - 0.001 * i for i in range(38)]
    test = make_range_test(rates, early, 3, diverged=False)
    assert test.suggested_lr == test.steepest_lr == pytest.approx(rates[10], rel=0.3)
    assert make_range_test(rates, [2.0] * 50, 3, diverged=False).suggested_lr is None


def test_the_test_stops_when_the_mean_of_the_last_losses_is_four_times_the_lowest():
    losses = [2.0] * 5 + [0.5] * 5
    assert not has_diverged([*losses, 2.4, 2.4, 2.4], 5)
    assert has_diverged([*losses, 2.4, 2.4, 2.4, 2.4, 2.4], 5)
    assert not has_diverged([2.0] * 5 + [0.01] * 5 + [0.5] * 5, 5)  # below its start
    assert has_diverged([2.0, float("nan")], 5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "lr.png"], "--out lr.png is invalid: the figure is an SVG, so name it FILE.svg"),
        (["--steps", "99"], "99 steps are invalid: give 100 to 10,000"),
        (["--out", "folder.svg"], "--out folder.svg cannot be written (it is a folder): choose an"),
        (["--out", "file/lr.svg"], "--out file/lr.svg cannot be written ("),
        (["--set", "bn=frozen"], "bn=frozen needs pretrained weights: add --from"),
    ],
)
def test_what_cannot_be_tested_is_refused_at_once(capsys, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("residua.training.find_lr.make_training_step", pytest.fail)
    assert main([*COMMAND, *words]) == 2
    assert sentence in capsys.readouterr().err


def test_vlad_is_refused(capsys):
    assert main(["find-lr", "digits", "--model", "vlad"]) == 2
    assert "vlad is not trained by steps: choose another --model" in capsys.readouterr().err


def test_the_steepest_fall_is_found_under_noise():
    """A logistic fall around 0.01 with noise of an eighth of its height, 20 times."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.linspace(-6, 1, 200, dtype=torch.float64)
    curve = 2.4 - 1.6 * torch.sigmoid(3 * (exponents + 2)) + 5 * (exponents + 0.3).clamp(min=0) ** 2
    for _ in range(20):
        noise = 0.2 * torch.randn(200, generator=generator)
        test = make_range_test((10**exponents).tolist(), (curve + noise).tolist(), 20, False)
        assert 0.005 < test.steepest_lr < 0.02
        assert 0.05 < test.lowest_loss_lr < 0.6


def test_losses_that_are_noise_give_no_suggestion():
    """Also if they grow in the end; windows are a tenth of the steps, as in the command."""
    generator = torch.Generator().manual_seed(0)
    suggestions = 0
    for trial in range(200):
        losses = 0.7 + 0.1 * torch.randn(100, generator=generator)
        losses[80:] += torch.linspace(0, 2, 20) * (trial % 2)
        rates = torch.logspace(-6, 1, 100, dtype=torch.float64).tolist()
        test = make_range_test(rates, losses.tolist(), 10, diverged=False)
        suggestions += test.suggested_lr is not None
    assert suggestions <= 10


def test_labels_without_a_pattern_give_no_suggestion(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "photos", 40)
    network = ["--model", "cifar-resnet8", "--from", "none", "--size", "32", "--precision", "fp32"]
    command = ["find-lr", "photos", *network, "--steps", "100", "--batch-size", "8"]
    assert main([*command, "--out", "lr.svg"]) == 0
    out = capsys.readouterr().out
    assert "no suggestion: the loss did not fall by more than chance" in out
    assert "steepest" not in out
    assert "steepest" not in (tmp_path / "lr.svg").read_text()


def write_noise(folder, count):
    """Write photographs of two classes that differ in nothing."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_the_steepest_fall_must_come_before_the_lowest_loss():
    rates = [10 ** (i / 10 - 4) for i in range(50)]
    losses = [2.0] * 5 + [1.0] * 5 + [1.8] * 20 + [1.8 - 0.075 * i for i in range(10)] + [1.2] * 10
    test = make_range_test(rates, losses, 3, diverged=False)
    assert test.lowest_loss_lr < test.rates[10]
    assert (test.steepest_lr > test.lowest_loss_lr) == (test.suggested_lr is None)


def test_the_lowest_loss_is_that_of_a_full_window():
    rates, losses = [10 ** (i / 10 - 4) for i in range(50)], [2.0] * 20 + [1.0] * 29 + [0.0]
    assert make_range_test(rates, losses, 5, diverged=False).lowest_loss_lr <= rates[47]


def test_a_loss_that_is_not_finite_is_said(capsys, monkeypatch):
    losses = iter([2.0] * 30 + [1.0] * 30 + [float("nan")])

    def make_step(*arguments):
        return lambda images, labels, rate: (torch.tensor(next(losses)), None)

    monkeypatch.setattr("residua.training.find_lr.make_training_step", make_step)
    assert main(COMMAND) == 0
    first_line, *_ = capsys.readouterr().out.splitlines()
    assert first_line.startswith("60 steps from 1e-06 to ")
    assert first_line.endswith(": the loss was not finite at the next rate")


def test_photographs_start_from_the_weights_that_training_would_choose_and_say_so(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "photos", 20)
    with publish_weights(tmp_path, monkeypatch) as publisher:
        publisher.offer(name="resnet18.a1_in1k", side=224, resize=256)
        command = ["find-lr", "photos", "--size", "16", "--steps", "100", "--batch-size", "2"]
        seen = []

        def stop(path, *arguments):
            seen.append(path)
            raise UsageError("enough")

        monkeypatch.setattr("residua.training.find_lr.load_initial_weights", stop)
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "starts from the weights resnet18.a1_in1k (" in err
        assert "(override: --from)" in err
        assert "(override: --recipe)" in err
        assert len(seen) == 1


def test_the_classes_of_a_model_are_kept_with_add_class(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path / "photos", 20)
    spec = network("cifar-resnet8", input=(3, 16, 16), classes=2)
    config = ModelConfig(network=spec, classes=("b", "c"), mean=(0.5,) * 3, std=(0.3,) * 3)
    save_pretrained(build(spec), config, tmp_path / "model")
    extended = []
    real = find_lr.extend_head
    monkeypatch.setattr(find_lr, "extend_head", lambda *a: extended.append(real(*a)) or extended[0])
    command = ["find-lr", "photos", "--from", "model", "--add-class", "--json"]
    assert main([*command, "--steps", "100", "--batch-size", "2", "--precision", "fp32"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"].keys() == {"a", "b", "c"}
    [rows] = extended
    old = build(spec).state_dict()
    assert all(torch.equal(tensor[:2], old[name]) for name, tensor in rows.items())
