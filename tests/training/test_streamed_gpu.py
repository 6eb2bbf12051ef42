"""Photographs that are decoded on the CPU train on a GPU as images in its memory do."""

import pytest
import torch

from residua.config.augmentation import Augmentation
from residua.config.optimisers import Sgd
from residua.config.papers import network
from residua.data.batches import TrainingBatches
from residua.data.streamed_images import StreamedImages
from residua.net.build import build
from residua.training.evaluate import evaluate_network
from residua.training.machine import set_up_machine
from residua.training.step import TrainingStep
from tests.data.photos_in_memory import make_photos

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MEAN, STD, CLASSES = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 4
AUGMENTATIONS = {
    "crops": Augmentation(pad=0, area=0.3, colour=0.3, cut=3),
    "mixed": Augmentation(pad=0, area=0.3, mixup=0.5, cutmix=0.5),
    "padded centers": Augmentation(pad=3),
}


def stream_photos(device, seconds=0.0):
    photos = make_photos(64, seconds=seconds)
    photos.labels = photos.labels % CLASSES
    return StreamedImages(photos, (40, 40), photos.labels.to(device))


def make_batches(device, augment, seconds=0.0):
    return TrainingBatches(
        stream_photos(device, seconds),
        16,
        augment,
        MEAN,
        STD,
        seed=3,
        crop_size=(32, 32),
        num_classes=CLASSES,
    )


def train(machine, augment, steps, **options):
    """Train a few steps of the batches; return the weights and the losses."""
    net = machine.prepare_model_in_place(
        build(network("cifar-resnet8", input=(3, 32, 32), classes=CLASSES), 0)
    ).train()
    step = TrainingStep(net, Sgd(), machine)
    batches = make_batches(machine.device, augment, **options)
    losses = [step(*batches.make_batch(i), 0.01)[0] for i in steps]
    batches.close()
    return net, torch.stack(losses), step


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_batches_on_a_gpu_are_those_on_the_cpu(name):
    on_gpu, on_cpu = (make_batches(device, AUGMENTATIONS[name]) for device in ("cuda", "cpu"))
    for i in (0, 1, 2, 7, 3):
        (x, y), (expected, labels) = on_gpu.make_batch(i), on_cpu.make_batch(i)
        assert torch.allclose(x.cpu(), expected, atol=1e-3)
        assert torch.allclose(y.cpu().float(), labels.float(), atol=1e-5)
    on_gpu.close()
    on_cpu.close()


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_captured_step_trains_on_the_batch_of_its_number(name, precision):
    """The graph reads the batches that are copied while it computes: losses are as without it."""
    machine = set_up_machine(precision)
    net, losses, step = train(machine, AUGMENTATIONS[name], range(12))
    assert step.graphs.are_captured
    again, losses_again, _ = train(machine, AUGMENTATIONS[name], range(12))
    slow, slow_losses, _ = train(machine, AUGMENTATIONS[name], range(12), seconds=0.002)
    for other, other_losses in ((again, losses_again), (slow, slow_losses)):
        assert torch.equal(losses, other_losses)
        for weight, other_weight in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(weight, other_weight)


def test_the_wait_for_photographs_is_measured_on_the_gpu():
    waits = []
    for seconds in (0.0, 0.05):
        batches = make_batches("cuda", AUGMENTATIONS["crops"], seconds)
        busy = torch.randn(2048, 2048, device="cuda")
        for i in range(6):
            x, _ = batches.make_batch(i)
            for _ in range(40):
                busy = busy @ busy / 50
            assert x.isfinite().all()
        batches.close()
        waits.append(batches.count_wait(0.0))
    assert waits[1] > 5 * waits[0], waits
    assert waits[1] > 0.05


def test_an_evaluation_decodes_ahead_and_counts_as_that_of_images_in_memory():
    machine = set_up_machine("fp32")
    net = machine.prepare_model_in_place(
        build(network("cifar-resnet8", input=(3, 32, 32), classes=CLASSES), 0)
    )
    streamed = stream_photos("cuda").center_crop((32, 32))
    scores = [
        evaluate_network(net, images, MEAN, STD, machine, batch_size=10)
        for images in (streamed, streamed[:])
    ]
    assert scores[0] == scores[1]
