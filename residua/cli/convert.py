"""Convert another project's weights to a model folder, or a model folder to such weights."""

import os
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

import residua
from residua import net
from residua.cli.options import add_json_option, add_out_option, is_given
from residua.cli.output import print_note, print_result
from residua.cli.parser import CommandParser
from residua.config.dataset import DATASETS
from residua.config.model import ModelConfig, explain_channel_mismatch
from residua.config.network import Network
from residua.config.papers import network
from residua.config.serialize import Json
from residua.errors import RecordError, UsageError
from residua.net import convert
from residua.report.format import format_counted_noun

if TYPE_CHECKING:
    from residua.net.convert.weights import ConvertedWeights

IMPORT_ONLY_OPTIONS = ("model", "classes", "mean", "std")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        help="another project's file of weights; with --to, a run's folder or a model folder",
    )
    parser.add_argument(
        "--model", type=str, help="the network in the file, e.g. cifar-resnet20 or resnet50"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help="the class names in the order of the outputs, or a text file with one name per line, "
        "or a data set's name",
    )
    parser.add_argument(
        "--mean",
        nargs="+",
        help="the number subtracted from each channel during training, for pixels in [0, 1]",
    )
    parser.add_argument(
        "--std", nargs="+", help="the number that each channel was divided by during training"
    )
    parser.add_argument(
        "--resize",
        type=int,
        default=0,
        help="the length in pixels to which an image's shorter side is resized before the center "
        "crop (default: 0, the whole image is resized to the network's input)",
    )
    parser.add_argument(
        "--interpolation",
        default="bilinear",
        choices=("bilinear", "bicubic"),
        help="the interpolation of that resizing",
    )
    parser.add_argument(
        "--license",
        default="",
        help="the licence of the weights, as the Hugging Face hub names it, e.g. bsd-2-clause",
    )
    parser.add_argument(
        "--to",
        type=str,
        help="export: write the weights under the names of torchvision, timm or huggingface",
    )
    add_out_option(
        parser, "the model folder; with --to, a .safetensors or .pth file", required=True
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.out.exists():
        raise UsageError(f"{arguments.out} already exists: choose another --out")
    facts, summary = export_weights(arguments) if arguments.to else import_weights(arguments)
    print_result(facts, summary, arguments.json)


def import_weights(arguments: Namespace) -> tuple[dict[str, Json], str]:
    """Convert a file of another project to a model folder; return the facts and their summary."""
    require_import_options(arguments)
    requested_network, config = make_requested_config(arguments)
    tensors = convert.read_state_dict(arguments.source)
    conversion = convert.convert_foreign_weights(tensors, requested_network)
    if conversion.missing:
        raise RecordError(
            f"{arguments.source} has no classification head, which a model folder needs: "
            "use create_model(..., pretrained=...) in Python, which makes a new one"
        )
    stored_network = convert.adopt_foreign_stride(requested_network, arguments.model, conversion)
    model = residua.build(stored_network)
    model.load_state_dict(conversion.tensors)
    net.save_pretrained(model, replace(config, network=stored_network), arguments.out)
    if stored_network != requested_network:
        print_note(
            f"read as {stored_network.name}, because bottlenecks of other projects stride on the "
            f"3x3; if these do not, give --model {requested_network.name},stride=1x1"
        )
    if conversion.caveats:
        print_note(conversion.caveats)
    facts: dict[str, Json] = {
        "folder": str(arguments.out),
        "renamed": dict(conversion.ours_by_theirs),
        "missing": list(conversion.missing),
        "unexpected": list(conversion.unexpected),
        "parameters": model.plan.parameters,
    }
    return facts, format_import_summary(facts, config, stored_network.name, conversion)


def require_import_options(arguments: Namespace) -> None:
    """Raise UsageError or RecordError if a file cannot be converted with these options."""
    missing_options = [
        f"--{option}" for option in IMPORT_ONLY_OPTIONS if not is_given(arguments, option)
    ]
    if missing_options:
        raise UsageError(
            f"{' and '.join(missing_options)} must be given: a weights file does not "
            "record the network, the class names or the normalisation"
        )
    if arguments.source.is_dir():
        raise RecordError(
            f"{arguments.source} is a folder: give a weights file, "
            "or add --to to write the folder's weights for another project"
        )


def make_requested_config(arguments: Namespace) -> tuple[Network, ModelConfig]:
    """The network that `--model` names, and the config of its model folder."""
    class_words = to_string_list(arguments.classes)
    requested_network, classes = resolve_network_and_classes(arguments.model, class_words)
    data = DATASETS.get(class_words[0])
    channels = data.input[0] if data else 0
    config = ModelConfig(
        network=requested_network,
        classes=classes,
        mean=parse_channel_values("mean", arguments, requested_network, channels),
        std=parse_channel_values("std", arguments, requested_network, channels),
        residua=version("residua"),
        torch=version("torch"),
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        license=arguments.license,
    )
    return requested_network, config


def format_import_summary(
    facts: dict[str, Json], config: ModelConfig, name: str, conversion: "ConvertedWeights"
) -> str:
    """The new folder and its network, examples of renamed tensors, and the skipped tensors."""
    classes = format_counted_noun(len(config.classes), "class", "classes")
    renamed = format_counted_noun(len(conversion.ours_by_theirs), "tensor")
    lines = [
        f"{facts['folder']}: {name}, {classes}, {facts['parameters']:,} parameters",
        f"{renamed} renamed: {format_rename_examples(conversion.ours_by_theirs)}",
    ]
    if conversion.unexpected:
        skipped = format_counted_noun(len(conversion.unexpected), "tensor")
        names = ", ".join(conversion.unexpected)
        lines.append(f"{skipped} skipped, because {name} has no such tensor: {names}")
    return "\n".join(lines)


def export_weights(arguments: Namespace) -> tuple[dict[str, Json], str]:
    """Write a model folder's weights under another project's names; return facts and summary."""
    conflicting_options = [
        f"--{option}" for option in IMPORT_ONLY_OPTIONS if is_given(arguments, option)
    ]
    if conflicting_options:
        raise UsageError(
            f"{' and '.join(conflicting_options)} cannot be given with --to: "
            "the model folder has its own"
        )
    if not arguments.source.is_dir():
        raise RecordError(
            f"{arguments.source} is not a model folder: give one, "
            "or leave out --to if this is another project's weights file"
        )
    model, config = net.load_model_folder(net.find_model_folder(arguments.source))
    if not isinstance(config.network, Network):
        raise RecordError(
            f"{arguments.source} cannot be converted to {arguments.to}: "
            f"it contains {config.network.name}, which is not a residual network"
        )
    new_names = convert.map_names_to_project(config.network, arguments.to)
    exported = convert.convert_to_project(model.state_dict(), config.network, arguments.to)
    convert.write_state_dict(exported, arguments.out)
    if caveat := convert.explain_output_difference(config.network, arguments.to):
        print_note(f"no network of {arguments.to} computes the same with these weights: {caveat}")
    renamed = format_counted_noun(len(new_names), "tensor")
    summary = f"{arguments.out}: {renamed} renamed: {format_rename_examples(new_names)}"
    return {"file": str(arguments.out), "renamed": dict(new_names)}, summary


def to_string_list(value: object) -> list[str]:
    """An option's values as text; a configuration file may give one value without a list."""
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def resolve_network_and_classes(
    name: str, class_words: list[str]
) -> tuple[Network, tuple[str, ...]]:
    """The network with the classes of `--classes`, and their names.

    If `--classes` is a data set's name, the network also takes images of its shape.
    """
    if len(class_words) == 1 and class_words[0] in DATASETS:
        data = DATASETS[class_words[0]]
        return network(name, input=data.input, classes=len(data.classes)), data.classes
    if len(class_words) == 1:
        class_words = read_class_names(Path(class_words[0])) or class_words[0].split(",")
    classes = tuple(word.strip() for word in class_words)
    for class_name, count in Counter(classes).items():
        if count > 1 or not class_name:
            raise UsageError(
                f"--classes must be distinct names, but {class_name!r} appears {count} times"
            )
    return network(name, classes=len(classes)), classes


def read_class_names(path: Path) -> list[str]:
    """The lines of a text file; no lines if the file does not exist."""
    # os.path, since pathlib raises if a list of classes is longer than a file's name may be
    if not os.path.isfile(path):
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            f"--classes {path} is not a text file: give a file with one class name per line"
        ) from None


def parse_channel_values(
    option: str, arguments: Namespace, requested_network: Network, channels: int
) -> tuple[float, ...]:
    """Parse the numbers of `--mean` or `--std`: one per channel, as `0.5 0.4 0.4` or `0.5,0.4,0.4`.

    `channels` is the images' number of channels, or 0 if only the network determines it.  Raises
    UsageError if the number of values does not fit the channels, or if a value is impossible.
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


def format_rename_examples(new_names: dict[str, str]) -> str:
    """The first, the middle and the last tensor as `old -> new`, without their common prefix."""
    names = list(new_names)
    columns = zip(*(name.split(".") for name in names), strict=False)
    common = takewhile(lambda words: len(set(words)) == 1, columns)
    prefix = "".join(f"{words[0]}." for words in common)
    examples = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return ", ".join(f"{name.removeprefix(prefix)} -> {new_names[name]}" for name in examples)
