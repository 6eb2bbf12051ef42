"""The network of the recipe `record` equals one written by hand, and starts as it should."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from residua.config.memory import saved_bytes_per_part
from residua.config.papers import network
from residua.config.plan import plan
from residua.config.stages import Stem, Whitening
from residua.errors import UsageError
from residua.net.build import build
from residua.net.whiten import count_start_images, set_stem_from_images
from tests.third_party import randomize_weights

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 3, 32, 32, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(6)


def normalise(x, state, name):
    """BN by the statistics of the batch, with a learned shift alone."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-12).sqrt() + state[f"{name}.bias"][:, None, None]


def silu(x):
    return x / (1 + torch.exp(-x))


def compute_by_hand(state, x, convolutions):
    """The scores of cifar-record8 (one convolution a unit) and cifar-record11 (two)."""
    x = silu(F.conv2d(x, state["stem.0.weight"], state["stem.0.bias"]))
    for stage in (1, 2, 3):
        unit = f"stages.stage{stage}.0"
        x = F.max_pool2d(F.conv2d(x, state[f"{unit}.lead.0.weight"], padding=1), 2)
        x = y = silu(normalise(x, state, f"{unit}.lead.2"))
        for i in range(convolutions):
            y = silu(y) if i else y
            y = F.conv2d(y, state[f"{unit}.branch.{3 * i}.weight"], padding=1)
            y = normalise(y, state, f"{unit}.branch.{3 * i + 1}")
        x = silu(x + y)
    return 0.5 / x.shape[1] * x.amax((2, 3)) @ state["head.1.weight"].T


@pytest.mark.parametrize(("name", "convolutions"), [("cifar-record8", 1), ("cifar-record11", 2)])
def test_scores_and_gradients_are_those_of_a_network_written_by_hand(name, convolutions):
    net = build(network(f"{name},width=0.25")).double().train()
    for parameter in net.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=GENERATOR)
    state = {key: value.detach().clone() for key, value in net.state_dict().items()}
    trained = [key for key, p in net.named_parameters() if p.requires_grad]
    for key in trained:
        state[key].requires_grad_()
    scores, expected = net(IMAGES), compute_by_hand(state, IMAGES, convolutions)
    torch.testing.assert_close(scores, expected)
    F.cross_entropy(scores, LABELS).backward()
    F.cross_entropy(expected, LABELS).backward()
    for key in trained:
        torch.testing.assert_close(net.get_parameter(key).grad, state[key].grad)


def test_the_stem_s_filters_and_the_scales_of_bn_are_not_trained():
    net = build(network("cifar-record11"))
    fixed = {name for name, p in net.named_parameters() if not p.requires_grad}
    norms = {name for name in net.state_dict() if name.endswith("running_mean")}
    assert fixed == {"stem.0.weight"} | {name.replace("running_mean", "weight") for name in norms}
    assert all(bool((net.get_parameter(name) == 1).all()) for name in fixed - {"stem.0.weight"})


def test_convolutions_pass_on_their_inputs_at_the_start_as_torch_initialises_them():
    net = build(network("cifar-record11"))
    for unit in net.units:
        for weight in [unit.lead[0].weight, unit.branch[0].weight, unit.branch[3].weight]:
            outputs, inputs = weight.shape[:2]
            identity = torch.nn.init.dirac_(torch.empty(min(outputs, inputs), inputs, 3, 3))
            assert torch.equal(weight[:inputs], identity)
            rest, bound = weight[inputs:], (9 * inputs) ** -0.5
            assert not rest.numel() or bound * 0.99 < rest.abs().max() <= bound
    assert net.head[1].weight.std().item() == pytest.approx(1, rel=0.05)


def test_stem_whitens_the_patches_of_the_images_that_it_gets():
    photos = torch.rand(40, 3, 32, 32, generator=GENERATOR).cumsum(2).cumsum(3) / 300 - 1
    net = build(network("cifar-record11"))
    assert count_start_images(net) == 5000
    set_stem_from_images(net, photos)
    convolution = net.stem[0]
    with torch.no_grad():
        outputs = F.conv2d(photos, convolution.weight).transpose(0, 1).flatten(1).double()
    assert torch.equal(convolution.weight[:12], -convolution.weight[12:])
    assert not convolution.bias.any()
    covariance = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    unfolded = F.unfold(photos.double(), 2).transpose(1, 2).reshape(-1, 12)
    values = torch.linalg.eigvalsh(unfolded.T @ unfolded / len(unfolded)).flip(0)
    expected = torch.diag(values / (values + 5e-4))
    torch.testing.assert_close(covariance, expected, atol=2e-3, rtol=2e-3)


def test_a_network_without_a_whitened_stem_stays_as_it_is():
    net = build(network("cifar-resnet8"))
    before = net.stem[0].weight.clone()
    set_stem_from_images(net, IMAGES.float())
    assert count_start_images(net) == 0
    assert torch.equal(net.stem[0].weight, before)


def test_plans_count_parameters_and_shapes_of_the_modules():
    for name in (
        "cifar-record8",
        "cifar-record11,widths=128-384-512",
        "cifar-record17,units=2-2-2",
    ):
        planned = plan(network(name))
        net = build(planned.network)
        assert planned.parameters == sum(p.numel() for p in net.parameters())
        assert planned.depth == int(name.split(",")[0].removeprefix("cifar-record"))
        for unit, expected in zip(net.units, planned.units, strict=True):
            x = torch.zeros(2, expected.input_shape.channels, *expected.input_shape.size)
            assert unit(x).shape[1:] == (
                expected.output_shape.channels,
                *expected.output_shape.size,
            )


def test_the_estimate_of_saved_activations_is_what_autograd_saves():
    net = randomize_weights(build(network("cifar-record11,width=0.25"))).train()
    images, storages = IMAGES.float().requires_grad_(), {}

    def remember(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        net(images).sum()
    measured = sum(t.numel() * t.element_size() for t in storages.values() if t.dim() == 4)
    estimated = len(images) * sum(saved_bytes_per_part(net.plan, 4))
    assert measured == pytest.approx(estimated, rel=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network("cifar-record12"), "make 11 layers: write cifar-record11"),
        (lambda: network("cifar-record11,widths=64-256"), "have 3 stages, so give 3 numbers"),
        (lambda: network("cifar-resnet20,widths=1-2-3"), "applies only to cifar-record networks"),
        (
            lambda: network("cifar-record11", input=(1, 28, 28)),
            "24 filters needs images of 3 channels or more, and these have 1: choose another model",
        ),
        (
            lambda: replace(network("cifar-record8"), stem=Stem(width=23, start=Whitening())),
            "a whitened stem of 23 filters is odd: give an even width",
        ),
        (lambda: network("cifar-record11,start=identity"), "whose scale is not learned"),
        (lambda: Whitening(eps=0.0), "eps=0.0 is invalid: give a number above 0"),
        (lambda: Whitening(eps=float("inf")), "eps=inf is invalid: give a number above 0"),
        (lambda: Whitening(eps=float("nan")), "eps=nan is invalid: give a number above 0"),
        (lambda: plan(network("cifar-record11", input=(3, 8, 8))), "the images are too small"),
    ],
)
def test_impossible_networks_are_refused_in_a_sentence(make, message):
    with pytest.raises(UsageError, match=message):
        make()
