"""Parse the options by which `residua convert` describes another project's weights."""

import os
from collections import Counter
from dataclasses import replace
from math import isfinite, prod
from pathlib import Path

from jsonargparse import Namespace

from residua.bounded_json import read_regular_file
from residua.config.dataset import DATASETS
from residua.config.model import explain_channel_mismatch
from residua.config.network import Network
from residua.errors import UsageError
from residua.file_names import decode_file_name
from residua.report.format import format_counted_noun

MAX_CLASSES_BYTES = 2**26  # of a file of class names


def to_string_list(value: object) -> list[str]:
    """Convert the values of an option to strings.

    A configuration file may give one value instead of a list.
    """
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def resolve_network_and_classes(
    network: Network, class_words: list[str]
) -> tuple[Network, tuple[str, ...]]:
    """Return `network` for the classes of `--classes`, and the class names.

    If `--classes` is the name of a data set, the network also takes that data set's image shape.
    Raises UsageError if a class name is empty or occurs twice.
    """
    if len(class_words) == 1 and class_words[0] in DATASETS:
        data = DATASETS[class_words[0]]
        features = (prod(data.input),)
        input = features if len(network.input) == 1 else data.input
        return replace(network, input=input, classes=len(data.classes)), data.classes
    if len(class_words) == 1:
        names_in_file = read_class_names_if_present(Path(class_words[0]))
        class_words = names_in_file or decode_file_name(class_words[0]).split(",")
    else:
        class_words = list(map(decode_file_name, class_words))
    classes = tuple(word.strip() for word in class_words)
    for class_name, count in Counter(classes).items():
        if count > 1 or not class_name:
            raise UsageError(
                f"--classes must be distinct names, but {class_name!r} appears {count} times"
            )
    return replace(network, classes=len(classes)), classes


def read_class_names_if_present(path: Path) -> list[str]:
    """Read the lines of a text file; an empty list if the file does not exist.

    Raises UsageError if the file is not UTF-8 text.
    """
    # os.path, since pathlib raises if a list of classes is longer than a file's name may be
    if not os.path.isfile(path):
        return []
    try:
        content = read_regular_file(path, MAX_CLASSES_BYTES)
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            f"--classes {path} is not a text file: give a file with one class name per line"
        ) from None


def parse_channel_values(
    option: str, arguments: Namespace, requested_network: Network, channels: int
) -> tuple[float, ...]:
    """Parse the numbers of `--mean` or `--std`, one per channel, e.g. `0.5 0.4 0.4`.

    The numbers are separated by spaces or commas.  `channels` is the number of channels of the
    data set's images, or 0 if only the network limits the number.  Raises UsageError if the number
    of values does not fit the channels, if a value is not a finite number, or if a value of `--std`
    is not above 0.
    """
    words = to_string_list(arguments[option])
    texts = [text for word in words for text in word.replace(",", " ").split()]
    try:
        values = tuple(map(float, texts))
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
    if channels not in (0, len(values)):
        mismatch = f"the images have {format_counted_noun(channels, 'channel')}"
    else:
        mismatch = explain_channel_mismatch(requested_network, len(values))
    if mismatch:
        raise UsageError(f"--{option} has {len(values)} numbers, but {mismatch}")
    if not all(map(isfinite, values)) or (option == "std" and min(values) <= 0):
        wanted = "numbers above 0" if option == "std" else "numbers"
        raise UsageError(f"--{option} {' '.join(texts)} is invalid: give {wanted}")
    return values
