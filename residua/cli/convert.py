"""Convert another project's weights to a model folder, or a model folder to another project's weights."""

import os
import sys
from collections import Counter
from importlib.metadata import version
from itertools import takewhile
from math import isfinite
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_json_option, print_json
from residua.config.dataset import DATASETS
from residua.config.model import ModelConfig, explain_channel_mismatch
from residua.config.network import Network
from residua.config.papers import network
from residua.config.serialize import Json
from residua.errors import RecordError, UsageError

IMPORT_ONLY_OPTIONS = ("model", "classes", "mean", "std")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        help="a file of another project's weights; with --to, a run's or a model folder",
    )
    parser.add_argument(
        "--model", type=str, help="the network that the file holds, e.g. cifar-resnet20 or resnet50"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help="names in the order of the scores, a text file of them, or a data set",
    )
    parser.add_argument(
        "--mean", nargs="+", help="what training subtracted from each channel of pixels in [0, 1]"
    )
    parser.add_argument("--std", nargs="+", help="what training divided each channel by")
    parser.add_argument(
        "--resize",
        type=int,
        default=0,
        help="pixels of an image's shorter side, before the middle is cut out (default: 0: none is)",
    )
    parser.add_argument(
        "--interpolation",
        default="bilinear",
        choices=("bilinear", "bicubic"),
        help="how images are resized",
    )
    parser.add_argument(
        "--license",
        default="",
        help="of the weights, as the Hugging Face hub names it, e.g. bsd-2-clause",
    )
    parser.add_argument(
        "--to", type=str, help="whose names to write: torchvision, timm or huggingface"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the model folder; with --to, a .safetensors or .pth file",
    )
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.out.exists():
        raise UsageError(f"{arguments.out} exists already: choose another --out")
    facts = export_weights(arguments) if arguments.to else import_weights(arguments)
    if arguments.json:
        print_json(facts)


def import_weights(arguments: Namespace) -> dict[str, Json]:
    """A file of another project's becomes a model folder."""
    if missing_options := [
        f"--{option}" for option in IMPORT_ONLY_OPTIONS if getattr(arguments, option) in (None, [])
    ]:
        raise UsageError(
            f"{' and '.join(missing_options)} must be given, for a file of weights does not say it"
        )
    if arguments.source.is_dir():
        raise RecordError(
            f"{arguments.source} is a folder: give another project's file, or --to to write this folder's weights"
        )
    class_words, mean_words, std_words = [
        to_string_list(getattr(arguments, option)) for option in ("classes", "mean", "std")
    ]
    requested_network, classes = resolve_network_and_classes(arguments.model, class_words)
    channels = DATASETS[class_words[0]].input[0] if class_words[0] in DATASETS else 0
    mean, std = (
        parse_channel_values("mean", mean_words, requested_network, channels),
        parse_channel_values("std", std_words, requested_network, channels),
    )

    import torch

    from residua.net.build import build
    from residua.net.convert.names import adopt_foreign_stride, convert_foreign_weights
    from residua.net.convert.state_dict import read_state_dict
    from residua.net.model_folder import save_pretrained

    conversion = convert_foreign_weights(read_state_dict(arguments.source), requested_network)
    if conversion.missing:
        raise RecordError(
            f"{arguments.source} holds no head, and a model folder needs one: create_model(..., pretrained=...) makes it"
        )
    stored_network = adopt_foreign_stride(requested_network, arguments.model, conversion)
    net = build(stored_network)
    net.load_state_dict(conversion.tensors)
    config = ModelConfig(
        network=stored_network,
        classes=classes,
        mean=mean,
        std=std,
        residua=version("residua"),
        torch=torch.__version__,
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        license=arguments.license,
    )
    save_pretrained(net, config, arguments.out)
    if stored_network != requested_network:
        print_note(
            f"read as {stored_network.name}, for others' bottlenecks stride on the 3x3: ask for {requested_network.name},stride=1x1 where these do not"
        )
    if conversion.caveats:
        print_note(conversion.caveats)
    facts: dict[str, Json] = {
        "folder": str(arguments.out),
        "renamed": dict(conversion.ours_by_theirs),
        "missing": list(conversion.missing),
        "unexpected": list(conversion.unexpected),
        "parameters": net.plan.parameters,
    }
    if not arguments.json:
        print(
            f"{arguments.out}: {stored_network.name}, {len(classes)} classes, {net.plan.parameters:,} parameters"
        )
        print(
            f"{len(conversion.ours_by_theirs)} tensors renamed: {format_rename_examples(conversion.ours_by_theirs)}"
        )
        if conversion.unexpected:
            print(
                f"{len(conversion.unexpected)} left out, for {stored_network.name} has none such: {', '.join(conversion.unexpected)}"
            )
    return facts


def export_weights(arguments: Namespace) -> dict[str, Json]:
    """A model folder becomes a file of another project's."""
    if conflicting_options := [
        f"--{option}"
        for option in IMPORT_ONLY_OPTIONS
        if getattr(arguments, option) not in (None, [])
    ]:
        raise UsageError(
            f"{' and '.join(conflicting_options)} cannot be given with --to: the model folder says it"
        )
    if not arguments.source.is_dir():
        raise RecordError(
            f"{arguments.source} is no model folder: leave out --to to read it as another project's weights"
        )

    from residua.net.convert.caveats import explain_output_difference
    from residua.net.convert.names import convert_to_project, map_names_to_project
    from residua.net.convert.state_dict import write_state_dict
    from residua.net.model_folder import from_pretrained, read_model_config
    from residua.training.evaluate import find_model_folder

    folder = find_model_folder(arguments.source)
    network_config = read_model_config(folder).network
    if not isinstance(network_config, Network):
        raise RecordError(
            f"{folder} holds no residual network: {arguments.to} has no name for what it holds"
        )
    new_names = map_names_to_project(network_config, arguments.to)
    write_state_dict(
        convert_to_project(from_pretrained(folder).state_dict(), network_config, arguments.to),
        arguments.out,
    )
    if caveat := explain_output_difference(network_config, arguments.to):
        print_note(f"no network of {arguments.to} computes the same with these weights: {caveat}")
    if not arguments.json:
        print(
            f"{arguments.out}: {len(new_names)} tensors renamed: {format_rename_examples(new_names)}"
        )
    return {"file": str(arguments.out), "renamed": dict(new_names)}


def to_string_list(value: object) -> list[str]:
    """What an option says; a configuration file may say a single word or number without a list around it."""
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def resolve_network_and_classes(
    name: str, class_words: list[str]
) -> tuple[Network, tuple[str, ...]]:
    """The network with as many classes as `--classes` says, and their names; a data set says the images' shape too."""
    if len(class_words) == 1 and class_words[0] in DATASETS:
        data = DATASETS[class_words[0]]
        return network(name, input=data.input, classes=len(data.classes)), data.classes
    if len(class_words) == 1:
        class_words = read_class_names(Path(class_words[0])) or class_words[0].split(",")
    classes = tuple(name.strip() for name in class_words)
    if invalid_names := [name for name, count in Counter(classes).items() if count > 1 or not name]:
        raise UsageError(
            f"--classes must be names that differ: {invalid_names[0]!r} is there {classes.count(invalid_names[0])} times"
        )
    return network(name, classes=len(classes)), classes


def read_class_names(path: Path) -> list[str]:
    """Of a text file; none where no file is called so."""
    if not os.path.isfile(
        path
    ):  # pathlib raises where a list of classes is too long for a file's name
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(
            f"--classes {path} is no text file: give one with a name in each line"
        ) from None


def parse_channel_values(
    option: str, value_words: list[str], network_config: Network, channels: int = 0
) -> tuple[float, ...]:
    """`["0.5", "0.4", "0.4"]` or `["0.5,0.4,0.4"]` as a number for each of so many channels, or, at 0, for each of the net's."""
    texts = [text for word in value_words for text in word.replace(",", " ").split()]
    try:
        values = tuple(float(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
    mismatch = (
        f"the images have {channels} channels"
        if channels not in (0, len(values))
        else explain_channel_mismatch(network_config, len(values))
    )
    if mismatch:
        raise UsageError(f"--{option} has {len(values)} numbers, {mismatch}")
    if not all(map(isfinite, values)) or (option == "std" and min(values) <= 0):
        raise UsageError(
            f"--{option} {' '.join(texts)} is impossible: give numbers{' above 0' * (option == 'std')}"
        )
    return values


def format_rename_examples(new_names: dict[str, str]) -> str:
    """The first, the middle and the last, without what wrappers put before every name."""
    names = list(new_names)
    columns = zip(*(name.split(".") for name in names), strict=False)
    prefix = "".join(
        f"{words[0]}." for words in takewhile(lambda words: len(set(words)) == 1, columns)
    )
    sample_names = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return ", ".join(f"{name.removeprefix(prefix)} -> {new_names[name]}" for name in sample_names)


def print_note(message: str) -> None:
    print(f"residua: {message}", file=sys.stderr)
