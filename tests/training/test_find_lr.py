"""`residua find-lr`: what it trains, when it stops, what it suggests and what it leaves."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from residua.cli.main import main
from residua.config.dataset import get_dataset
from residua.config.recipe import recipe
from residua.data.batches import make_training_batches
from residua.data.read import read_split
from residua.net.create import create_model
from residua.training.find_lr import has_diverged, make_range_test

COMMAND = ["find-lr", "digits", "--model", "cifar-resnet8", "--precision", "fp32", "--steps", "40"]


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
        data.std, 0, (0, 1),
    )  # fmt: skip
    decayed = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, 0.1, 0.9, weight_decay=1e-4, nesterov=True)
    rates = torch.logspace(-6, 1, 40, dtype=torch.float64)
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
    assert main([*COMMAND, "--batch-size", "8", *settings]) == 0
    out = capsys.readouterr().out
    assert "steepest fall of the loss at" in out
    assert "suggest" in out
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
        (["--steps", "3"], "3 steps are invalid: give 40 to 10,000"),
        (["--set", "bn=frozen"], "bn=frozen needs pretrained weights: add --from"),
    ],
)
def test_what_cannot_be_tested_is_refused(capsys, words, sentence):
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
