"""A user's program; scripts/check looks at its types, strictly."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import residua

images: NDArray[np.uint8] = np.zeros((10, 8, 8), np.uint8)
labels = np.zeros(10, np.int64)


def darken(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    return image // 2


def main() -> None:
    result = residua.train("cifar-resnet8", (images, labels), steps=3, transform=darken)
    classifier: residua.Classifier = residua.load(Path("runs/a"))
    name: str = classifier.classes[0]
    print(result.metrics["test_error"], name, result.folder)
    net = residua.create_model("cifar-resnet20", num_classes=10)
    print(net.num_features, residua.plan(residua.network("cifar-resnet20")).parameters)
    print(classifier.evaluate((images, labels)).error_rate)
    prediction = classifier.predict_one("a.png")
    print(prediction.label)
