"""ImageNet's 1,000 classes: their synset ids and distinct names, in the order of the scores.

The ids are those of timm's imagenet_synsets.txt, the names those of torchvision's list.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

IMAGENET = "imagenet"  # the name of the data set
IDS_SHA256 = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
"""Of the ids in their order, one per line."""


@cache
def read_imagenet_classes() -> dict[str, str]:
    """Read the names of ImageNet's classes by synset id: `{"n01440764": "tench", ...}`."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="ascii")
    return dict(line.split(" ", 1) for line in text.splitlines())


def hash_imagenet_ids() -> str:
    """Compute the SHA-256 of the ids in their order, one per line, in hexadecimal."""
    return hashlib.sha256("".join(f"{i}\n" for i in read_imagenet_classes()).encode()).hexdigest()


class ClassMatcher:
    """Finds the class of a model that a name means.

    A name is that of the class.  If the model's classes are ImageNet's, or some of them, it may be
    the synset id, too, or differ in case, blanks and underscores.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        ids = read_imagenet_classes()
        self.classes = classes
        self.label_by_name = {name: label for label, name in enumerate(classes)}
        self.labels_by_loose_name: dict[str, list[int]] = {}
        self.label_by_id: dict[str, int] = {}
        if not set(classes) <= set(ids.values()):
            return
        for label, name in enumerate(classes):
            self.labels_by_loose_name.setdefault(loosen_name(name), []).append(label)
        for synset, name in ids.items():
            if name in self.label_by_name:
                self.label_by_id[synset] = self.label_by_name[name]

    def find_labels(self, name: str) -> list[int]:
        """Find the labels of the classes that `name` may mean; more than one is ambiguous."""
        if name in self.label_by_name:
            return [self.label_by_name[name]]
        if name in self.label_by_id:
            return [self.label_by_id[name]]
        return self.labels_by_loose_name.get(loosen_name(name), [])


def loosen_name(name: str) -> str:
    """Return a name in small letters, without blanks and underscores."""
    return re.sub(r"[\s_]+", "", name.casefold())
