import pytest
import torch
from torch import nn

import residua
from residua.errors import UsageError
from tests.same_weights import require_equal_weights

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A residual and a plain network, hardly trained, each with its folder."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: residua.train(
            name, "digits", steps=3, quiet=True, precision="fp32", out=folder / name
        )
        for name in ("cifar-resnet8", "cifar-plain8")
    }


def compute_scores(net):
    with torch.inference_mode():
        return net(IMAGES)


@pytest.mark.parametrize("kind", ["folder", "text", "result", "classifier", "module"])
def test_a_network_given_in_any_form_is_deepened_with_its_outputs_unchanged(trained, kind):
    result = trained["cifar-resnet8"]
    given = {
        "folder": result.folder,
        "text": str(result.folder),
        "result": result,
        "classifier": result.classifier,
        "module": result.net,
    }[kind]
    before = compute_scores(result.net)
    deeper = residua.deepen(given, stage=2, units=3)
    assert deeper.plan.depth == result.net.plan.depth + 6
    assert torch.equal(compute_scores(deeper), before)
    assert torch.equal(compute_scores(result.net), before)
    assert not deeper.training


def test_a_deepened_network_is_written_as_a_model_folder_that_keeps_its_test_error(
    trained, tmp_path
):
    result = trained["cifar-resnet8"]
    deeper = residua.deepen(result, stage=1, units=1, out=tmp_path / "deeper")
    stored = residua.load(tmp_path / "deeper")
    require_equal_weights(stored.net, deeper)
    assert stored.config.test_error == result.metrics["test_error"]
    with pytest.raises(UsageError, match="already exists: choose another out$"):
        residua.deepen(result, stage=1, units=1, out=tmp_path / "deeper")


def test_a_residualized_network_keeps_its_weights_but_not_its_test_error(trained, tmp_path):
    result = trained["cifar-plain8"]
    residual = residua.residualize(result.folder, shortcut="A", out=tmp_path / "residual")
    assert residual.plan.network.unit.shortcut == "pad"
    require_equal_weights(residual, result.net)
    stored = residua.load(tmp_path / "residual")
    require_equal_weights(stored.net, residual)
    assert stored.config.test_error is None


def test_the_seed_draws_the_projections_of_a_residualized_network(trained):
    first, again, other = (
        residua.residualize(trained["cifar-plain8"], seed=seed).state_dict() for seed in (0, 0, 1)
    )
    differing = [name for name in first if not torch.equal(first[name], other[name])]
    assert differing
    assert all("shortcut" in name for name in differing)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_nn_sequential_is_copied_and_gets_skip_connections():
    torch.manual_seed(0)
    plain = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    residual = residua.residualize(plain, every=1)
    x = torch.randn(5, 4)
    hidden = x + plain[0](x)
    assert torch.allclose(residual(x), plain[2](hidden + plain[1](hidden)))


def test_what_cannot_be_edited_is_refused_with_one_sentence(trained, tmp_path):
    plain, residual = trained["cifar-plain8"], trained["cifar-resnet8"]
    cases = [
        (lambda: residua.deepen(plain, stage=1, units=1), "a plain net has no shortcuts"),
        (lambda: residua.deepen(residual, stage=4, units=1), "has no stage 4: choose from 1 to 3"),
        (lambda: residua.deepen(residual, stage=1, units=1, seed=-1), "seed -1 is invalid"),
        (lambda: residua.deepen(7, stage=1, units=1), "int is not a network: give a run's folder"),
        (
            lambda: residua.deepen(nn.Linear(2, 2), stage=1, units=1),
            "Linear has no units that residua knows",
        ),
        (
            lambda: residua.deepen(residual.net, stage=1, units=1, out=tmp_path / "x"),
            "a module has no class names to write to .*: omit out=",
        ),
        (lambda: residua.residualize(residual), "already has skip connections"),
        (
            lambda: residua.residualize(plain, shortcut="C-3PO"),
            "C-3PO",
        ),
        (
            lambda: residua.residualize(nn.Sequential(nn.Linear(2, 2)), out=tmp_path / "x"),
            "a module has no class names",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message):
            call()
    assert list(tmp_path.iterdir()) == []
