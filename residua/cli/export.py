"""Write a trained network as a file for other programs: ONNX, OpenVINO or torch.export."""

import sys
from pathlib import Path

from jsonargparse import Namespace

from residua.cli.parser import CommandParser, add_data_dir_option, add_json_option, print_json
from residua.config.serialize import Json
from residua.errors import UsageError

EXPORT_SUFFIXES = {"onnx": ".onnx", "openvino": "-openvino", "torch-export": ".pt2"}
MAX_INT8_LOSS_POINTS = 0.5  # points of error that int8 may cost before it is warned of; our choice


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, help="a run's or a model folder")
    parser.add_argument("--to", required=True, choices=tuple(EXPORT_SUFFIXES), help="the format")
    parser.add_argument(
        "--out",
        type=Path,
        help="the file, and for openvino a folder (default: named like the model folder)",
    )
    parser.add_argument(
        "--bake-preprocessing",
        action="store_true",
        help="take uint8 images; the normalisation is in the file",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="weights and activations of 8 bits; wants --images, and says what it costs",
    )
    parser.add_argument(
        "--images",
        help="a folder of images, in folders by class to count errors, or a data set's name; for --int8",
    )
    add_data_dir_option(parser)
    add_json_option(parser)


def run(arguments: Namespace) -> None:
    if arguments.int8 != (arguments.images is not None):
        raise UsageError(
            "--int8 is calibrated on real images: give --images DIR with it"
            if arguments.int8
            else "--images is for --int8"
        )
    out = arguments.out or Path(
        f"{arguments.model.resolve().name}{'-int8' * arguments.int8}{EXPORT_SUFFIXES[arguments.to]}"
    )

    from residua.deploy.export import export_model

    facts = export_model(
        arguments.model,
        arguments.to,
        out,
        bake_preprocessing=arguments.bake_preprocessing,
        calibration_source=arguments.images or "",
        data_dir=arguments.data_dir,
    )
    print_json(facts) if arguments.json else print(format_export_summary(facts))
    if (loss_points := compute_int8_loss_points(facts)) > MAX_INT8_LOSS_POINTS:
        print(
            f"residua: int8 costs {loss_points:.1f} points here, more than {MAX_INT8_LOSS_POINTS}: fp32 is the safer file",
            file=sys.stderr,
        )


def format_export_summary(facts: dict[str, Json]) -> str:
    opset = f", opset {facts['opset']}" if "opset" in facts else ""
    precision = "int8" if "agreement" in facts else "fp32"
    return (
        f"{facts['file']}: {facts['model']}, {facts['classes']} classes, {facts['format']}{opset}, {precision}\n"
        f"takes {facts['takes']}; gives scores and probabilities\n"
    ) + (format_int8_costs(facts) if precision == "int8" else format_export_differences(facts))


def format_export_differences(facts: dict[str, Json]) -> str:
    return (
        f"differs from PyTorch by at most {facts['difference']:.1e} in a probability and {facts['score_difference']:.1e} in a "
        f"score, in batches of 1 and of 5 images"
    )


def format_int8_costs(facts: dict[str, Json]) -> str:
    """What int8 loses, on images that it was not calibrated by."""
    agreement_text = f"says the same as fp32 of {format_share_percent(facts['agreement'])} of {facts['images']:,} test images of {facts['source']}"
    if "fp32_error" not in facts:
        return (
            f"{agreement_text}, whose classes are not the model's, so that errors cannot be counted"
        )
    return f"{agreement_text}: error {format_share_percent(facts['fp32_error'])} in fp32, {format_share_percent(facts['int8_error'])} in int8"


def compute_int8_loss_points(facts: dict[str, Json]) -> float:
    """By how many points of error int8 is worse, where that was counted."""
    fp32_error, int8_error = facts.get("fp32_error", 0.0), facts.get("int8_error", 0.0)
    assert isinstance(fp32_error, float)
    assert isinstance(int8_error, float)
    return 100 * (int8_error - fp32_error)


def format_share_percent(share: Json) -> str:
    assert isinstance(share, float)
    return f"{100 * share:.2f} %"
