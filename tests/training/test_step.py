import pytest
import torch
from torch import nn

from residua import create_model
from residua.config.optimisers import AdamW, Muon, RmsProp, Sgd
from residua.net.freeze import freeze_batchnorm_statistics
from residua.training.cuda_graph import find_out_of_memory
from residua.training.machine import Machine
from residua.training.muon import (
    QUINTIC_COEFFICIENTS,
    MatrixPacking,
    MuonOptimiser,
    group_by_padded_size,
    orthogonalise_wide,
)
from residua.training.optimisers import make_parameter_groups
from residua.training.step import TrainingStep

CPU_FP32 = Machine(torch.device("cpu"), "fp32")


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_follows_the_equations_of_momentum(nesterov):
    """v <- 0.9 v + (g + wd w);  w <- w - lr v, or with Nesterov w - lr (g + wd w + 0.9 v).

    Three steps in float64.
    """
    net = nn.Linear(3, 2).double()
    weight = net.weight.detach().clone()
    images, labels = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    step = TrainingStep(net, Sgd(momentum=0.9, weight_decay=0.01, nesterov=nesterov), CPU_FP32)
    velocity = torch.zeros_like(weight)
    for lr in (0.1, 0.2, 0.05):
        bias = net.bias.detach().clone()
        p = torch.softmax(images @ weight.T + bias, 1)
        gradient = (p - torch.eye(2, dtype=torch.float64)[labels]).T @ images / 4 + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - lr * (gradient + 0.9 * velocity if nesterov else velocity)
        step(images, labels, lr)
        assert (net.weight - weight).abs().max() < 1e-7  # the loss is computed in fp32


def test_a_step_returns_the_mean_loss_and_the_wrong_answers_before_the_update():
    net = create_model("cifar-resnet8", input=(1, 8, 8))
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    with torch.no_grad():
        scores = net(images)
    loss, wrong = TrainingStep(net, Sgd(), CPU_FP32)(images, labels, 0.1)
    assert loss.item() == pytest.approx(
        nn.functional.cross_entropy(scores, labels).item(), rel=1e-6
    )
    assert wrong.item() == (scores.argmax(1) != labels).sum()


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_added_up_are_the_large_batch_where_bn_does_not_look_at_it(parts):
    """Gradient accumulation, in float64 (the loss is in fp32), with frozen statistics."""
    ends = []
    for bn_splits in (1, parts):
        net = create_model("cifar-resnet8", input=(1, 8, 8), seed=1).double()
        freeze_batchnorm_statistics(net)
        step = TrainingStep(net.train(), Sgd(), CPU_FP32, bn_splits)
        for i in range(3):
            generator = torch.Generator().manual_seed(i)
            images = torch.randn(20, 1, 8, 8, generator=generator, dtype=torch.float64)
            loss, wrong = step(images, torch.arange(20) % 10, 0.01)
        ends.append([loss.double(), wrong, *net.parameters()])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_label_smoothing_spreads_the_label_over_all_classes():
    net, labels = create_model("cifar-resnet8", input=(1, 8, 8)), torch.arange(16) % 10
    images = torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        log = net(images).log_softmax(1)
    loss, _ = TrainingStep(net, Sgd(), CPU_FP32, label_smoothing=0.2)(images, labels, 0.0)
    wanted = torch.eye(10)[labels] * 0.8 + 0.2 / 10
    assert loss.item() == pytest.approx(-(wanted * log).sum(1).mean().item(), rel=1e-6)


def test_with_decay_weights_only_weights_are_decayed():
    net = create_model("cifar-resnet8")
    decayed, spared = make_parameter_groups(net, Sgd(weight_decay=0.1, decay="weights"))
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in spared["params"]} == {1}
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(net.parameters()))
    [everything] = make_parameter_groups(net, Sgd(weight_decay=0.1))
    assert everything["weight_decay"] == 0.1


@pytest.mark.parametrize(
    "optimiser",
    [Sgd(), Sgd(momentum=0), AdamW(), RmsProp(momentum=0.5), AdamW(decay="weights"), Muon()],
    ids=str,
)
def test_a_restored_optimiser_continues_bit_identically(optimiser):
    def make_fresh_step():
        return TrainingStep(
            create_model("cifar-resnet8", input=(1, 8, 8), seed=1), optimiser, CPU_FP32
        )

    batches = [(torch.randn(8, 1, 8, 8), torch.arange(8)) for _ in range(4)]
    uninterrupted_step, first, second = make_fresh_step(), make_fresh_step(), make_fresh_step()
    for batch in batches:
        uninterrupted_step(*batch, 0.01)
    for batch in batches[:2]:
        first(*batch, 0.01)
    second.net.load_state_dict(first.net.state_dict())
    second.load_optimiser_state(
        {name: tensor.clone() for name, tensor in first.optimiser_state().items()}
    )
    for batch in batches[2:]:
        second(*batch, 0.01)
    assert all(
        torch.equal(a, b)
        for a, b in zip(uninterrupted_step.net.parameters(), second.net.parameters(), strict=True)
    )


def test_muon_makes_the_weights_of_units_orthogonal_and_trains_the_rest_by_momentum():
    net = create_model("cifar-resnet8")
    hidden, others = make_parameter_groups(net, Muon(weight_decay=0.1, lr_scale=3.0))
    units = [p for unit in net.units for p in unit.parameters() if p.dim() == 4]
    assert [id(p) for p in hidden["params"]] == [id(p) for p in units]
    assert len(units) + len(others["params"]) == len(list(net.parameters()))
    assert (hidden["weight_decay"], hidden["is_unit_weights"], others["lr_scale"]) == (
        0.1,
        True,
        3.0,
    )


def test_a_muon_update_is_approximately_the_nearest_orthogonal_matrix():
    """W <- (1 - lr wd) W - lr O (Jordan et al. 2024).

    O has the singular vectors of g + mu v, and singular values near 1.
    """
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in [(8, 4, 3, 3), (8, 4, 3, 3), (32, 2, 3, 3), (6, 20)]]
    weights[0] = weights[0].to(memory_format=torch.channels_last)
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    scale = nn.Parameter(torch.ones(4))
    groups = [
        {"params": parameters, "weight_decay": 0.5, "is_unit_weights": True, "lr_scale": 1.0},
        {"params": [scale], "lr_scale": 2.0},
    ]
    optimiser, velocity = (
        MuonOptimiser(groups, momentum=0.9),
        [torch.zeros_like(w) for w in weights],
    )
    for lr in (0.1, 0.05):
        gradients = [torch.randn_like(weight) for weight in weights]
        for p, g in zip([*parameters, scale], [*gradients, torch.full((4,), lr)], strict=True):
            p.grad = g.clone()
        for group in optimiser.param_groups:
            group["lr"] = lr * group["lr_scale"]
        optimiser.step()
        for i, g in enumerate(gradients):
            velocity[i] = 0.9 * velocity[i] + g
            u, _, v = torch.linalg.svd((g + 0.9 * velocity[i]).flatten(1), full_matrices=False)
            moved = ((1 - lr * 0.5) * weights[i] - parameters[i].detach()).flatten(1) / lr
            values = u.T @ moved @ v.T
            assert ((values.diagonal() > 0.6) & (values.diagonal() < 1.3)).all(), values.diagonal()
            assert (values - values.diagonal().diag()).abs().max() < 0.05
            weights[i] = parameters[i].detach().clone()
    moving = 1 - 2 * 0.1 * 1.9 * 0.1 - 2 * 0.05 * (0.05 + 0.9 * (0.9 * 0.1 + 0.05))
    assert scale.detach().numpy() == pytest.approx(moving)


def test_adamw_decays_weights_separately_from_the_gradient():
    """w <- w - lr wd w - lr m / (sqrt(v) + eps) (Loshchilov & Hutter 2019, Alg. 2).

    The first step has the size lr, apart from the decay.
    """
    net = nn.Linear(3, 2).double()
    before = net.weight.detach().clone()
    step = TrainingStep(net, AdamW(weight_decay=0.1), CPU_FP32)
    step(torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0]), 0.01)
    moved = (net.weight - before * (1 - 0.01 * 0.1)).abs()
    assert (moved - 0.01).abs().max() < 1e-6


def test_adamw_is_bit_identical_to_torch_optim_adamw():
    images, labels = torch.randn(16, 3), torch.arange(16) % 2
    net, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    reference.load_state_dict(net.state_dict())
    step = TrainingStep(net, AdamW(0.8, 0.9, weight_decay=0.1), CPU_FP32)
    adamw = torch.optim.AdamW(
        reference.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True
    )
    for lr in (0.01, 0.02, 0.005):
        step(images, labels, lr)
        adamw.param_groups[0]["lr"] = lr
        adamw.zero_grad()
        nn.functional.cross_entropy(reference(images), labels).backward()
        adamw.step()
    assert torch.equal(net.weight, reference.weight)
    assert torch.equal(net.bias, reference.bias)


@pytest.mark.parametrize("count", [1, 7])
def test_packed_matrices_are_orthogonalised_as_each_alone(count):
    """In float64: the polynomial of each matrix; neither padding nor transposing changes it."""
    torch.manual_seed(0)
    shapes = [(16, 8, 3, 3), (32, 16, 3, 3), (16, 64, 1, 1), (64, 16, 1, 1), (10, 40), (8, 2, 3, 3)]
    tensors = [
        torch.randn(shape).bfloat16().float() for shape in [*shapes, (128, 64, 3, 3)][:count]
    ]
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    packing = MatrixPacking(tensors)
    batches = packing.pack(tensors)
    assert len(batches) == 1
    restored = packing.unpack(batches)
    for tensor, again in zip(tensors, restored, strict=True):
        assert torch.equal(tensor, again)
        assert tensor.stride() == again.stride()
    exact = packing.unpack([orthogonalise_wide(batch.double()) for batch in batches])
    a, b, c = QUINTIC_COEFFICIENTS
    for tensor, ours in zip(tensors, exact, strict=True):
        x = tensor.flatten(1).double()
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = a * x + b * square @ x + c * square @ square @ x
        assert (ours.flatten(1) - x).norm() / x.norm() < 1e-6


def test_matrices_of_very_different_sizes_are_not_padded_to_one():
    groups = group_by_padded_size([torch.Size(s) for s in [(512, 4608)] * 3 + [(64, 64)] * 5])
    assert groups == [[0, 1, 2], [3, 4, 5, 6, 7]]
    wide_last = [torch.Size(s) for s in [(64, 64)] * 600 + [(16, 4096)]]
    assert group_by_padded_size(wide_last) == [[*range(600)], [600]]


@pytest.mark.parametrize(
    "optimiser", [Sgd(), AdamW(), RmsProp(momentum=0.5), Muon(momentum=0.8)], ids=str
)
def test_separate_gradients_and_a_rate_in_a_tensor_train_the_same(optimiser):
    """As on a GPU, where the backward pass allocates the gradients."""
    ends = []
    for flat in (True, False):
        step = TrainingStep(
            create_model("cifar-resnet8", input=(1, 8, 8), seed=1), optimiser, CPU_FP32, clip_norm=1
        )
        if not flat:
            step.gradients.backward_allocates = True
        for i in range(3):
            torch.manual_seed(i)
            images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
            rate = 0.01 if flat else torch.tensor(0.01)
            loss, wrong = step.train_on_batch(images, labels, rate, rate)
        ends.append([loss, wrong, *step.net.parameters()])
    # of Muon, bf16 rounds gradients that differ in their last bit to neighbours
    tolerance = 2e-3 if isinstance(optimiser, Muon) else 1e-4
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=tolerance)


def test_lack_of_memory_is_found_behind_the_error_that_ends_a_capture():
    try:
        try:
            raise torch.OutOfMemoryError("out of memory")
        except torch.OutOfMemoryError:
            raise RuntimeError("unjoined work")  # noqa: B904 -- as the end of a capture does
    except RuntimeError as error:
        assert isinstance(find_out_of_memory(error), torch.OutOfMemoryError)
    assert find_out_of_memory(RuntimeError("another")) is None


def test_a_rate_that_is_an_integer_is_taken_as_a_number():
    ends = []
    for rate in (1, 1.0):
        step = TrainingStep(create_model("cifar-resnet8", input=(1, 8, 8), seed=1), Sgd(), CPU_FP32)
        torch.manual_seed(0)
        step(torch.randn(8, 1, 8, 8), torch.arange(8), rate)
        ends.append([p.detach().clone() for p in step.net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
