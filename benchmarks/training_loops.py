"""The training loops that benchmarks/training.py compares: a usual one and this package's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from peers import load_third_party
from torch import Tensor, nn
from torch.utils.data import DataLoader

from residua import create_model
from residua.config.augmentation import Augmentation
from residua.config.dataset import get_dataset
from residua.config.recipes import recipe
from residua.data.batches import TrainingBatches
from residua.data.images import Images
from residua.data.read import read_split
from residua.data.sources.resolve import IMAGENET_MEAN, IMAGENET_STD
from residua.training.evaluate import evaluate_network
from residua.training.machine import set_up_machine
from residua.training.step import TrainingStep

WORKER_COUNTS = 0, 2

SampleDataset = torch.utils.data.Dataset[tuple[Tensor, int]]
Loop = tuple[Callable[[], None], Callable[[], None]]
"""Functions that run one training step, and the evaluation of a round."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The network that is trained, and the size of a round."""

    model: str
    batch_size: int
    steps: int  # training steps per round
    eval_images: int  # images evaluated per round


WORKLOADS = {
    "cifar-resnet20": Workload("cifar-resnet20", 128, 44, 640),  # an eighth of an epoch
    "resnet50": Workload("resnet50", 16, 3, 32),  # a twentieth of an epoch
}


class PerSampleCifar10(SampleDataset):
    """CIFAR-10 as a usual data set: each image is augmented and normalised on its own."""

    def __init__(
        self, images: Images, mean: tuple[float, ...], std: tuple[float, ...], augment: bool
    ) -> None:
        self.pixels = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        self.random, self.augment = np.random.default_rng(0), augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.pixels[i]
        if self.augment:
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            y, x = self.random.integers(0, 9, 2)
            image = padded[y : y + 32, x : x + 32]
            if self.random.random() < 0.5:
                image = image[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div(255)
        return (pixels - self.mean) / self.std, self.labels[i]


def make_sample_dataset(photo_folder: Path | None, train: bool) -> SampleDataset:
    """The training or held-out images: photos by torchvision, or CIFAR-10 without a folder."""
    if photo_folder is None:
        data = get_dataset("cifar10")
        images = read_split(data, "train" if train else "dev")
        return PerSampleCifar10(images, data.mean, data.std, train)
    load_third_party()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()] if train else [v2.CenterCrop(224)]
    tensor = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    return ImageFolder(photo_folder / ("train" if train else "val"), v2.Compose([*crop, *tensor]))


def make_loader(
    workload: Workload, photo_folder: Path | None, workers: int, train: bool
) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(
        make_sample_dataset(photo_folder, train),
        workload.batch_size,
        shuffle=train,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
    )


def repeat_forever(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[list[Tensor]]:
    while True:
        yield from loader


def make_dataloader_loop(workload: Workload, photo_folder: Path | None, workers: int) -> Loop:
    """The usual loop: torchvision's network for photos, ours for CIFAR-10."""
    if photo_folder is None:
        net: nn.Module = create_model(workload.model)
    else:
        load_third_party()
        from torchvision.models import resnet50

        net = resnet50(num_classes=10)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    batches, held_out_batches = (
        repeat_forever(make_loader(workload, photo_folder, workers, train))
        for train in (True, False)
    )

    def train_step() -> None:
        pixels, labels = next(batches)
        loss = nn.functional.cross_entropy(net(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def evaluate_share() -> None:
        net.eval()
        with torch.inference_mode():
            for _ in range(workload.eval_images // workload.batch_size):
                pixels, labels = next(held_out_batches)
                (net(pixels).argmax(1) != labels).sum().item()
        net.train()

    return train_step, evaluate_share


def make_residua_loop(workload: Workload, photo_folder: Path | None) -> Loop:
    """This package's loop, with the recipe of He et al. 2015."""
    machine, he2015 = set_up_machine(), recipe("he2015")
    if photo_folder is None:
        data = get_dataset("cifar10")
        images, held_out = read_split(data, "train"), read_split(data, "dev")
        mean, std = data.mean, data.std
    else:
        images, held_out = (decode_photos(photo_folder / name) for name in ("train", "val"))
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    batches = TrainingBatches(images, workload.batch_size, Augmentation(), mean, std, seed=0)
    net = machine.prepare_model_in_place(create_model(workload.model, num_classes=10))
    step, step_numbers = TrainingStep(net, he2015.optimiser, machine), count()
    eval_images = held_out[slice(0, workload.eval_images)]

    def train_step() -> None:
        step(*batches.make_batch(next(step_numbers)), lr=0.01)

    return train_step, lambda: evaluate_network(net, eval_images, mean, std, machine) and None


def decode_photos(folder: Path) -> Images:
    """The photos of a folder of class folders, decoded and center-cropped to 224 x 224."""
    load_third_party()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    image_folder = ImageFolder(folder, v2.Compose([v2.CenterCrop(224), v2.PILToTensor()]))
    pixels, labels = zip(*image_folder, strict=True)
    return Images(torch.stack(pixels), torch.tensor(labels))


LOOP_FACTORIES: dict[str, Callable[[Workload, Path | None], Loop]] = {
    f"usual, {workers} workers": partial(make_dataloader_loop, workers=workers)
    for workers in WORKER_COUNTS
} | {"residua": make_residua_loop}
