"""Convert another project's weights to a model folder, or a model folder to such weights."""

from dataclasses import replace
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

import residua
from residua import net
from residua.cli.convert_check import (
    check_networks,
    list_possible_networks,
    names_padding,
    require_known_padding,
)
from residua.cli.convert_options import (
    parse_channel_values,
    resolve_network_and_classes,
    to_string_list,
)
from residua.cli.options import add_json_option, add_out_option, is_given, parse_model_path
from residua.cli.parser import CommandParser
from residua.config.dataset import DATASETS
from residua.config.hub_name import is_hub_name
from residua.config.model import ModelConfig
from residua.config.network import Network
from residua.config.papers import network as network_of
from residua.config.serialize import Json
from residua.console.output import print_note, print_notes, print_result
from residua.errors import RecordError, UsageError
from residua.files import claim_new_output
from residua.net import convert
from residua.net.convert.caveats import FORK_CAVEAT, STRIDE_CAVEAT, ZERO_PADDING_CAVEAT
from residua.report.format import format_counted_noun
from residua.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from residua.net.convert.weights import ConvertedWeights

IMPORT_ONLY_OPTIONS = ("model", "check", "classes", "mean", "std")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "source",
        type=parse_model_path,
        help="another project's file of weights; with --to, a run's folder or a model folder; "
        "either may be hf:OWNER/NAME on the Hugging Face hub",
    )
    parser.add_argument(
        "--model",
        type=str,
        help="the network in the file, e.g. cifar-resnet20 or "
        "resnet50 (default: recognised from the tensors)",
    )
    parser.add_argument(
        "--check",
        metavar="DATA",
        type=str,
        help="a data set on which to evaluate the networks that the weights may be of, e.g. with "
        "zero channels of option A on either side; the one with the fewest errors is written",
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
    add_output_options(parser)


def add_output_options(parser: CommandParser) -> None:
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
    with claim_new_output(arguments.out):
        facts, summary = export_weights(arguments) if arguments.to else import_weights(arguments)
    print_result(facts, summary, arguments.json)


def import_weights(arguments: Namespace) -> tuple[dict[str, Json], str]:
    """Convert another project's weights file to a model folder.

    Returns the values that `--json` prints, and the summary that is printed otherwise.
    """
    tensors = read_source_tensors(arguments.source)
    if arguments.model:
        network, name = network_of(arguments.model), str(arguments.model)
    else:
        network = convert.identify_network(tensors)
        name = network.name
    require_import_options(arguments, network)
    requested_network, config = make_requested_config(arguments, network)
    conversion = convert.convert_foreign_weights(tensors, requested_network)
    if conversion.missing:
        raise RecordError(
            f"{arguments.source} has no classification head "
            f"(its last tensors: {convert.describe_last_tensors(tensors)}), which a model folder "
            "needs: use create_model(..., pretrained=...) in Python, which adds a new head"
        )
    stored_network = convert.adopt_foreign_stride(requested_network, name, conversion)
    notes = [] if arguments.model else [describe_recognised(stored_network)]
    if arguments.check:
        possible_networks = list_possible_networks(
            stored_network,
            arguments.model or "",
            padding_is_unknown=conversion.padding_is_unknown,
            fork_is_unknown=conversion.fork_is_unknown,
        )
        checked = check_networks(possible_networks, conversion.tensors, config, arguments.check)
        stored_network = checked.network
        notes.append(checked.note)
    elif conversion.padding_is_unknown and not names_padding(arguments.model or ""):
        require_known_padding(stored_network)
    elif stored_network != requested_network:
        notes.append(
            f"read as {stored_network.name}, because bottlenecks of other projects stride on the "
            f"3x3; if these do not, give --model {requested_network.name},stride=1x1"
        )
    model = residua.build(stored_network)
    model.load_state_dict(conversion.tensors)
    net.save_pretrained(model, replace(config, network=stored_network), arguments.out)
    notes += list_notes(conversion, name, is_checked=bool(arguments.check))
    print_notes(notes)
    facts: dict[str, Json] = {
        "folder": str(arguments.out),
        "renamed": dict(conversion.ours_by_theirs),
        "missing": list(conversion.missing),
        "unexpected": list(conversion.unexpected),
        "parameters": model.plan.parameters,
    }
    return facts, format_import_summary(facts, config, stored_network.name, conversion)


def read_source_tensors(source_name: Path) -> "dict[str, Tensor]":
    """Read the tensors of a weights file; raise RecordError if there is none."""
    source = net.resolve_model_source(source_name)
    if source.is_dir():
        is_name = not source_name.exists() and not is_hub_name(source_name)
        what = "names published weights, usable as they are" if is_name else "is a folder"
        raise RecordError(
            f"{source_name} {what}: give a weights file, "
            "or add --to PROJECT, which writes its weights for another project"
        )
    return convert.read_state_dict(net.resolve_weights_path(source))


def describe_recognised(network: Network) -> str:
    return (
        f"recognised as {network.name} for {network.classes} classes; weights show neither strides "
        "nor pooling, so those of this network are assumed"
    )


def list_notes(conversion: "ConvertedWeights", name: str, *, is_checked: bool) -> list[str]:
    """List the caveats, except those on parts that a check or the network's name has decided."""
    decided = [ZERO_PADDING_CAVEAT]
    decided += [FORK_CAVEAT, STRIDE_CAVEAT] if is_checked else []
    decided += [FORK_CAVEAT] if "fork=" in name else []
    decided += [STRIDE_CAVEAT] if "stride=" in name else []
    caveats = "; ".join(text for text in conversion.caveat_list if text not in decided)
    return [caveats] if caveats else []


def require_import_options(arguments: Namespace, network: Network) -> None:
    """Raise UsageError if a required option is missing."""
    missing_options = [
        f"--{option}" for option in ("classes", "mean", "std") if not is_given(arguments, option)
    ]
    if missing_options:
        raise UsageError(
            f"{' and '.join(missing_options)} must be given: the file holds {network.name}, "
            "but not the names of the classes and the normalisation"
        )


def make_requested_config(arguments: Namespace, network: Network) -> tuple[Network, ModelConfig]:
    """Adapt the network to the classes of `--classes`; make the config of the new model folder."""
    class_words = to_string_list(arguments.classes)
    requested_network, classes = resolve_network_and_classes(network, class_words)
    data = DATASETS.get(class_words[0])
    channels = data.input[0] if data else 0
    config = ModelConfig(
        network=requested_network,
        classes=classes,
        mean=parse_channel_values("mean", arguments, requested_network, channels),
        std=parse_channel_values("std", arguments, requested_network, channels),
        residua=__version__,
        torch=version("torch"),
        resize=arguments.resize,
        interpolation=arguments.interpolation,
        license=arguments.license,
    )
    return requested_network, config


def format_import_summary(
    facts: dict[str, Json], config: ModelConfig, name: str, conversion: "ConvertedWeights"
) -> str:
    """Summarise the new folder: its network, examples of renamed tensors, and skipped tensors."""
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
    """Write the weights of a model folder to a file, under the tensor names of another project.

    Returns the values that `--json` prints, and the summary that is printed otherwise.
    """
    conflicting_options = [
        f"--{option}" for option in IMPORT_ONLY_OPTIONS if is_given(arguments, option)
    ]
    if conflicting_options:
        raise UsageError(
            "--to takes the network, the class names and the normalisation from the model folder: "
            f"leave out {' and '.join(conflicting_options)}"
        )
    source = net.resolve_model_source(arguments.source)
    if source.is_file():
        raise RecordError(
            f"{arguments.source} is not a model folder: give one, "
            "or leave out --to if this is another project's weights file"
        )
    model, config = net.load_model_folder(net.find_model_folder(source))
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


def format_rename_examples(new_names: dict[str, str]) -> str:
    """Format the first, middle and last renamed tensor as `old -> new`.

    The common prefix of the old names is left out.
    """
    names = list(new_names)
    columns = zip(*(name.split(".") for name in names), strict=False)
    common = takewhile(lambda words: len(set(words)) == 1, columns)
    prefix = "".join(f"{words[0]}." for words in common)
    examples = dict.fromkeys((names[0], names[len(names) // 2], names[-1]))
    return ", ".join(f"{name.removeprefix(prefix)} -> {new_names[name]}" for name in examples)
