"""Write a trained network as a file for other programs: ONNX, OpenVINO or torch.export."""

import sys
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import Parser, add_data_dir, add_json, print_json
from residua.errors import UsageError
from residua.spec.text import Json

SUFFIXES = {"onnx": ".onnx", "openvino": "-openvino", "torch-export": ".pt2"}
MOST_LOST = 0.5  # points of error that int8 may cost before it is warned of; our choice


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", type=Path, help="a run's or a model folder")
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES), help="the format")
    parser.add_argument("--out", type=Path, help="the file, and for openvino a folder (default: named like the model folder)")
    parser.add_argument("--bake-preprocessing", action="store_true", help="take uint8 images; the normalisation is in the file")
    parser.add_argument(
        "--int8", action="store_true", help="weights and activations of 8 bits; wants --images, and says what it costs"
    )
    parser.add_argument(
        "--images", help="a folder of images, in folders by class to count errors, or a data set's name; for --int8"
    )
    add_data_dir(parser)
    add_json(parser)


def run(arguments: Namespace) -> None:
    if arguments.int8 != (arguments.images is not None):
        raise UsageError(
            "--int8 is calibrated on real images: give --images DIR with it" if arguments.int8 else "--images is for --int8"
        )
    out = arguments.out or Path(f"{arguments.model.resolve().name}{'-int8' * arguments.int8}{SUFFIXES[arguments.to]}")

    from residua.deploy.export import export

    facts = export(
        arguments.model, arguments.to, out, bakes=arguments.bake_preprocessing, images=arguments.images or "",
        data_dir=arguments.data_dir,
    )  # fmt: skip
    print_json(facts) if arguments.json else print(prose(facts))
    if (lost := points(facts)) > MOST_LOST:
        print(f"residua: int8 costs {lost:.1f} points here, more than {MOST_LOST}: fp32 is the safer file", file=sys.stderr)


def prose(facts: dict[str, Json]) -> str:
    opset = f", opset {facts['opset']}" if "opset" in facts else ""
    kind = "int8" if "agreement" in facts else "fp32"
    return (
        f"{facts['file']}: {facts['model']}, {facts['classes']} classes, {facts['format']}{opset}, {kind}\n"
        f"takes {facts['takes']}; gives scores and probabilities\n"
    ) + (costs(facts) if kind == "int8" else differences(facts))


def differences(facts: dict[str, Json]) -> str:
    return (
        f"differs from PyTorch by at most {facts['difference']:.1e} in a probability and {facts['score_difference']:.1e} in a "
        f"score, in batches of 1 and of 5 images"
    )


def costs(facts: dict[str, Json]) -> str:
    """What int8 loses, on images that it was not calibrated by."""
    same = f"says the same as fp32 of {percent(facts['agreement'])} of {facts['images']:,} test images of {facts['source']}"
    if "fp32_error" not in facts:
        return f"{same}, whose classes are not the model's, so that errors cannot be counted"
    return f"{same}: error {percent(facts['fp32_error'])} in fp32, {percent(facts['int8_error'])} in int8"


def points(facts: dict[str, Json]) -> float:
    """By how many points of error int8 is worse, where that was counted."""
    before, after = facts.get("fp32_error", 0.0), facts.get("int8_error", 0.0)
    assert isinstance(before, float)
    assert isinstance(after, float)
    return 100 * (after - before)


def percent(share: Json) -> str:
    assert isinstance(share, float)
    return f"{100 * share:.2f} %"
