"""Convert another project's weights to a model folder, or a model folder to another project's weights."""

import os
import sys
from collections import Counter
from importlib.metadata import version
from itertools import takewhile
from math import isfinite
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_json, print_json
from residua.errors import RecordError, UsageError
from residua.spec.dataset import DATASETS
from residua.spec.model import ModelConfig, unfit
from residua.spec.network import Network
from residua.spec.papers import network
from residua.spec.text import Json

NEEDED = ("model", "classes", "mean", "std")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("source", type=Path, help="a file of another project's weights; with --to, a run's or a model folder")
    parser.add_argument("--model", type=str, help="the network that the file holds, e.g. cifar-resnet20 or resnet50")
    parser.add_argument("--classes", nargs="+", help="names in the order of the scores, a text file of them, or a data set")
    parser.add_argument("--mean", nargs="+", help="what training subtracted from each channel of pixels in [0, 1]")
    parser.add_argument("--std", nargs="+", help="what training divided each channel by")
    parser.add_argument(
        "--resize",
        type=int,
        default=0,
        help="pixels of an image's shorter side, before the middle is cut out (default: 0: none is)",
    )
    parser.add_argument("--interpolation", default="bilinear", choices=("bilinear", "bicubic"), help="how images are resized")
    parser.add_argument("--license", default="", help="of the weights, as the Hugging Face hub names it, e.g. bsd-2-clause")
    parser.add_argument("--to", type=str, help="whose names to write: torchvision, timm or huggingface")
    parser.add_argument("--out", type=Path, required=True, help="the model folder; with --to, a .safetensors or .pth file")
    add_json(parser)


def run(arguments: Namespace) -> None:
    if arguments.out.exists():
        raise UsageError(f"{arguments.out} exists already: choose another --out")
    facts = write(arguments) if arguments.to else read(arguments)
    if arguments.json:
        print_json(facts)


def read(arguments: Namespace) -> dict[str, Json]:
    """A file of another project's becomes a model folder."""
    if lacking := [f"--{option}" for option in NEEDED if getattr(arguments, option) in (None, [])]:
        raise UsageError(f"{' and '.join(lacking)} must be given, for a file of weights does not say it")
    if arguments.source.is_dir():
        raise RecordError(f"{arguments.source} is a folder: give another project's file, or --to to write this folder's weights")
    listed, means, stds = [words(getattr(arguments, option)) for option in ("classes", "mean", "std")]
    asked, classes = shaped(arguments.model, listed)
    channels = DATASETS[listed[0]].input[0] if listed[0] in DATASETS else 0
    mean, std = numbers("mean", means, asked, channels), numbers("std", stds, asked, channels)

    import torch

    from residua.net.build import build
    from residua.net.folder import save_pretrained
    from residua.net.port import from_theirs, striding_as_elsewhere
    from residua.net.weights import read_state

    ported = from_theirs(read_state(arguments.source), asked)
    if ported.missing:
        raise RecordError(
            f"{arguments.source} holds no head, and a model folder needs one: create_model(..., pretrained=...) makes it"
        )
    found = striding_as_elsewhere(asked, arguments.model, ported)
    net = build(found)
    net.load_state_dict(ported.tensors)
    config = ModelConfig(
        network=found, classes=classes, mean=mean, std=std, residua=version("residua"), torch=torch.__version__,
        resize=arguments.resize, interpolation=arguments.interpolation, license=arguments.license,
    )  # fmt: skip
    save_pretrained(net, config, arguments.out)
    if found != asked:
        tell(f"read as {found.name}, for others' bottlenecks stride on the 3x3: ask for {asked.name},stride=1x1 where these do not")
    if ported.note:
        tell(ported.note)
    facts: dict[str, Json] = {
        "folder": str(arguments.out), "renamed": dict(ported.renamed), "missing": list(ported.missing),
        "unexpected": list(ported.unexpected), "parameters": net.plan.parameters,
    }  # fmt: skip
    if not arguments.json:
        print(f"{arguments.out}: {found.name}, {len(classes)} classes, {net.plan.parameters:,} parameters")
        print(f"{len(ported.renamed)} tensors renamed: {examples(ported.renamed)}")
        if ported.unexpected:
            print(f"{len(ported.unexpected)} left out, for {found.name} has none such: {', '.join(ported.unexpected)}")
    return facts


def write(arguments: Namespace) -> dict[str, Json]:
    """A model folder becomes a file of another project's."""
    if given := [f"--{option}" for option in NEEDED if getattr(arguments, option) not in (None, [])]:
        raise UsageError(f"{' and '.join(given)} cannot be given with --to: the model folder says it")
    if not arguments.source.is_dir():
        raise RecordError(f"{arguments.source} is no model folder: leave out --to to read it as another project's weights")

    from residua.net.folder import from_pretrained, read_config
    from residua.net.otherwise import computes_otherwise
    from residua.net.port import names_of, to_theirs
    from residua.net.weights import write_state
    from residua.train.evaluate import model_folder

    folder = model_folder(arguments.source)
    spec = read_config(folder).network
    if not isinstance(spec, Network):
        raise RecordError(f"{folder} holds no residual network: {arguments.to} has no name for what it holds")
    renamed = names_of(spec, arguments.to)
    write_state(to_theirs(from_pretrained(folder).state_dict(), spec, arguments.to), arguments.out)
    if otherwise := computes_otherwise(spec, arguments.to):
        tell(f"no network of {arguments.to} computes the same with these weights: {otherwise}")
    if not arguments.json:
        print(f"{arguments.out}: {len(renamed)} tensors renamed: {examples(renamed)}")
    return {"file": str(arguments.out), "renamed": dict(renamed)}


def words(value: object) -> list[str]:
    """What an option says; a configuration file may say a single word or number without a list around it."""
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def shaped(name: str, asked: list[str]) -> tuple[Network, tuple[str, ...]]:
    """The network with as many classes as `--classes` says, and their names; a data set says the images' shape too."""
    if len(asked) == 1 and asked[0] in DATASETS:
        data = DATASETS[asked[0]]
        return network(name, input=data.input, classes=len(data.classes)), data.classes
    if len(asked) == 1:
        asked = lines(Path(asked[0])) or asked[0].split(",")
    classes = tuple(name.strip() for name in asked)
    if wrong := [name for name, count in Counter(classes).items() if count > 1 or not name]:
        raise UsageError(f"--classes must be names that differ: {wrong[0]!r} is there {classes.count(wrong[0])} times")
    return network(name, classes=len(classes)), classes


def lines(path: Path) -> list[str]:
    """Of a text file; none where no file is called so."""
    if not os.path.isfile(path):  # pathlib raises where a list of classes is too long for a file's name
        return []
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"--classes {path} is no text file: give one with a name in each line") from None


def numbers(option: str, words: list[str], net: Network, channels: int = 0) -> tuple[float, ...]:
    """`["0.5", "0.4", "0.4"]` or `["0.5,0.4,0.4"]` as a number for each of so many channels, or, at 0, for each of the net's."""
    texts = [text for word in words for text in word.replace(",", " ").split()]
    try:
        values = tuple(float(text) for text in texts)
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
    sentence = f"the images have {channels} channels" if channels not in (0, len(values)) else unfit(net, len(values))
    if sentence:
        raise UsageError(f"--{option} has {len(values)} numbers, {sentence}")
    if not all(map(isfinite, values)) or (option == "std" and min(values) <= 0):
        raise UsageError(f"--{option} {' '.join(texts)} is impossible: give numbers{' above 0' * (option == 'std')}")
    return values


def examples(renamed: dict[str, str]) -> str:
    """The first, the middle and the last, without what wrappers put before every name."""
    names = list(renamed)
    columns = zip(*(name.split(".") for name in names), strict=False)
    prefix = "".join(f"{words[0]}." for words in takewhile(lambda words: len(set(words)) == 1, columns))
    shown = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return ", ".join(f"{name.removeprefix(prefix)} -> {renamed[name]}" for name in shown)


def tell(sentence: str) -> None:
    print(f"residua: {sentence}", file=sys.stderr)
