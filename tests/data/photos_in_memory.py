"""Photographs in memory that are decoded when asked for, in place of files."""

import hashlib
import time

import numpy as np
import torch
from PIL import Image

from residua.errors import DataError


class PhotosInMemory:
    """A `PhotoSource` of Pillow images; it counts what is read, may be slow, and may fail."""

    def __init__(self, pictures, labels, seconds=0.0, damaged=()):
        self.pictures, self.labels = list(pictures), torch.as_tensor(labels)
        self.seconds, self.damaged, self.read = seconds, set(damaged), []

    @property
    def sizes(self):
        return torch.tensor([picture.size[::-1] for picture in self.pictures])

    @property
    def channels(self):
        return 3

    @property
    def fingerprint(self):
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for picture in self.pictures:
            digest.update(picture.tobytes())
        return digest.hexdigest()[:16]

    def __len__(self):
        return len(self.pictures)

    def select(self, indices):
        pictures = [self.pictures[i] for i in indices.tolist()]
        return PhotosInMemory(pictures, self.labels[indices], self.seconds)

    def read_crop(self, index, box, size):
        return self.open(index).resize_box(box, size)

    def read_center(self, index, size):
        height, width = self.sizes[index].tolist()
        top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
        return self.open(index).resize_box((left, top, left + size[1], top + size[0]), size)

    def open(self, index):
        self.read.append(index)
        time.sleep(self.seconds)
        if index in self.damaged:
            raise DataError(f"photo {index} is damaged: it ends too early")
        return OpenPhoto(self.pictures[index])


class OpenPhoto:
    def __init__(self, picture):
        self.picture = picture

    def resize_box(self, box, size):
        resized = self.picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def make_photos(count, sizes=((40, 64), (64, 40), (48, 48)), side=None, **options):
    """Random photographs with smooth areas, of different sizes, each labelled with its index."""
    rng = np.random.default_rng(count)
    pictures = []
    for i in range(count):
        height, width = (side, side) if side else sizes[i % len(sizes)]
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        pictures.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return PhotosInMemory(pictures, torch.arange(count), **options)
